"""Shared by the tests: fakes, kits and small data."""
