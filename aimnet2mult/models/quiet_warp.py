"""Initialize Warp, which aimnet uses, without messages that look like trouble on a machine without CUDA."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import torch
import warp

__all__ = ["init_warp"]

NO_DRIVER = b"Could not find or load the NVIDIA CUDA driver"
"""Part of the line that Warp prints where there is no driver, which is expected for training on CPUs."""


def init_warp() -> None:
    """Initialize Warp before aimnet does, so that it prints neither a description of the machine nor `NO_DRIVER`.

    Compiled kernels are kept in a temporary folder if Warp cannot write to its own. (Commands have chosen a folder that
    later runs find again; see `cli.cache_folder`.)
    """
    if hasattr(warp, "LOG_WARNING"):
        warp.config.log_level = warp.LOG_WARNING
    else:  # before 1.14
        warp.config.quiet = True  # type: ignore[attr-defined]
    with contextlib.nullcontext() if torch.cuda.is_available() else _without_line(NO_DRIVER):
        try:
            warp.init()  # type: ignore[no-untyped-call] # warp
            # Warp creates the folder, but does not check whether it can write to it.
            with tempfile.TemporaryFile(dir=warp.config.kernel_cache_dir):
                pass
        except OSError:
            warp.config.kernel_cache_dir = _temporary_folder()
            warp.init()  # type: ignore[no-untyped-call] # warp


def _temporary_folder() -> str:
    """Return a new folder, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="warp-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _without_line(part: bytes) -> Iterator[None]:
    """Leave out lines with ``part`` from what native code writes to stderr in the block; the rest follows after it."""
    try:
        saved, file = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError:  # stderr is closed, or there is no room for a file
        yield
        return
    with file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            kept = b"".join(line for line in file if part not in line)
            if kept:
                with contextlib.suppress(OSError):
                    os.write(2, kept)
