"""Draw runs: chart grouping, terminal plots, PNG files and the live dashboard."""
