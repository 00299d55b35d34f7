"""Anomaly detection on the recorded metrics."""
