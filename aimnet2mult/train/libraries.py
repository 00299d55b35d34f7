"""Import of torch and aimnet, once the cheap checks have passed."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["load_libraries", "no_garbage_collection"]


def load_libraries() -> None:
    """Import torch and aimnet."""
    with no_garbage_collection():
        import aimnet2mult.distributed.process_group
        import aimnet2mult.train.loop  # noqa: F401 - imports all other libraries


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Import without garbage collection in the block.

    The imports create two million permanent objects. Traversing these repeatedly takes longer than the imports
    themselves, and at exit it takes seconds that a preempted run does not have.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
