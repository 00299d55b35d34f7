"""Data sets of several fidelities: reading, reference energies, splitting, merging and sampling."""
