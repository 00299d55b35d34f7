"""From the name of a sink to an instance: hook specifications, entry points, optional imports."""
