"""The sample data set: two small HDF5 files, with settings and a model to train on them."""
