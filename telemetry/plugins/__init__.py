"""Find and instantiate sinks by name: hook specifications, entry points, optional imports."""
