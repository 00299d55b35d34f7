"""Evaluation of trained models on data, with the error sums and the metrics of a validation during training."""
