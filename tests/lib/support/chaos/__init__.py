"""Shared by the chaos suite: runs that are killed, cut off and starved."""
