"""Draw runs: which curves share a chart, terminal plots, PNG files and the live dashboard."""
