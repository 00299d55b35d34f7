"""The delivery side: send the records of the journal to each sink exactly once."""
