"""Masked error sums and their statistics.

To add a quantity, edit ``aimnet2mult/quantities.py``; everything else follows.
"""
