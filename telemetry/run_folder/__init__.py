"""The small files of a run folder: heartbeat, leases, the progress of each sink."""
