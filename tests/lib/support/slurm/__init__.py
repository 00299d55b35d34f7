"""Jobs on the SLURM cluster that `tests/slurm/lab.sh` starts."""
