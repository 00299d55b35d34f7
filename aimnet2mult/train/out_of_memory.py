"""Report that the memory of a device does not suffice, and which settings need less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aimnet2mult.config.schema import Config
from aimnet2mult.errors import OutOfMemory
from telemetry.errors import error_text

__all__ = ["explaining_memory", "memory_remedy"]

TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages of errors of this kind that torch raises as RuntimeError."""
DETAILS = " Including non-PyTorch memory"
"""The beginning of the advice in torch's message, which is for programmers."""


@contextmanager
def explaining_memory(remedy: str) -> Iterator[None]:
    """Turn an error about too little memory into one that names the remedy; other errors are unchanged.

    Raises:
        OutOfMemory: the memory of the device or of the machine does not suffice.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = error_text(error).partition(DETAILS)[0].rstrip(".")
        raise OutOfMemory(f"{reason or 'out of memory'}; {remedy}") from error


def memory_remedy(config: Config) -> str:
    """Return how a training needs less memory."""
    parts, rows = config.trainer.micro_batches, config.data.samplers.train.batch_size
    return (
        f"resume with trainer.micro_batches={2 * parts}, which changes only rounding, or reduce "
        f"data.samplers.train.batch_size={rows}"
    )


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or any(text in str(error) for text in TEXTS)
