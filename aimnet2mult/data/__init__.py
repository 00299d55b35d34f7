"""Data sets of several fidelities: read, shifted, split, merged and drawn from."""
