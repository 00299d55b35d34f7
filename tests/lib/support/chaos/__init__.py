"""Helpers of the chaos suite: runs that are killed, disconnected and starved."""
