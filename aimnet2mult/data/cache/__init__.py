"""The cache of data files that are read from disk: records of their structures, and what the checks have found."""
