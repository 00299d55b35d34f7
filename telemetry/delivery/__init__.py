"""The sinks' side: deliver the journal to each sink exactly once."""
