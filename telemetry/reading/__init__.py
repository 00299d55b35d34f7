"""Read runs back: curves, summaries, run lists and exports."""
