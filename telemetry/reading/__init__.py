"""Read runs from their folders: curves, summaries, run lists and exports."""
