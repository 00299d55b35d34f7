"""The append-only log of a run: its lines, segments, writer and reader."""
