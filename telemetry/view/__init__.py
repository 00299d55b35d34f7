"""The live page: the runs of folders, read incrementally, and their charts."""
