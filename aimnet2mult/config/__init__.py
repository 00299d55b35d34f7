"""Settings: their schema, defaults, layers, what a resume may change, and the original trainer's format."""
