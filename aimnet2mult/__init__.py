"""Mixed-fidelity AIMNet2 training."""

__version__ = "0.2.0"
