"""Anomaly detection: alerts about problems in the recorded metrics."""
