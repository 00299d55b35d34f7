"""Several processes: ranks, collectives, and when all of them stop."""
