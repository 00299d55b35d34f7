"""The YAML settings, model definitions and weights of the original trainer."""
