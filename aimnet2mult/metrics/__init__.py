"""Masked error sums and their statistics.

To add a quantity, edit ``aimnet2mult/labels.py``; everything else follows.
"""
