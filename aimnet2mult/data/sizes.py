"""Sizes of data in bytes."""

__all__ = ["GIGABYTE", "size_text"]

GIGABYTE = 10**9


def size_text(size: int) -> str:
    """Return a number of bytes as text, such as ``1.2 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
