"""The small files of a run folder: heartbeat, leases, and the progress of each sink."""
