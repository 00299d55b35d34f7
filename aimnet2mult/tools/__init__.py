"""Modules that existing scripts run."""
