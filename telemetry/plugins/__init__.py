"""From the name of a sink to its instance: hook specifications, entry points, optional imports."""
