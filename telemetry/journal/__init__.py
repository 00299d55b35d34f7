"""The append-only log of a run: lines, segments, writer and reader."""
