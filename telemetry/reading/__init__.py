"""Read runs back: curves, summaries, lists and exports."""
