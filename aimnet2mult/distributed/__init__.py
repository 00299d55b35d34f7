"""Training with several processes: ranks, collective operations, and the decision to stop."""
