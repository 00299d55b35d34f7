"""Exceptions of signal handlers that Python would ignore."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["raising_lost_interrupts"]


@contextlib.contextmanager
def raising_lost_interrupts() -> Iterator[None]:
    """Raise at the end of the block what a signal handler has raised in it where nothing can be raised.

    h5py runs Python code when it destroys an object, which is where the handler of a signal often runs that has come
    while data were decompressed. Python prints such an exception and ignores it: the process would continue.

    Raises:
        KeyboardInterrupt: Ctrl-C came in the block.
        SystemExit: A signal that ends the process came in the block.
    """
    lost: list[BaseException] = []
    previous = sys.unraisablehook

    def keep(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            lost.append(unraisable.exc_value)
        else:
            previous(unraisable)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = previous
    if lost:
        raise lost[0].with_traceback(None)
