"""Settings: schema, defaults, merging of layers, rules for a resume, and the format of the original trainer."""
