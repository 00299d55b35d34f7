"""Conversion of extended xyz, ASE databases and npz to the HDF5 layout that is trained on, without torch."""
