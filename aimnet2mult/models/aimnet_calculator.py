"""aimnet's calculator, imported without a change of the logging of this process.

aimnet configures logging when it is imported. Every warning would then be printed as by default in Python, besides or
instead of one line in the format of this program, which is safe for a terminal.
"""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["AIMNet2Calculator", "keeping_logging"]


@contextlib.contextmanager
def keeping_logging() -> Iterator[None]:
    """Make ``logging.basicConfig`` in the block have no effect, as in a program that has configured logging."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


with keeping_logging():
    from aimnet.calculators import AIMNet2Calculator
