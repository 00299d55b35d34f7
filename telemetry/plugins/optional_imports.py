"""Packages that the base install does without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from telemetry.errors import PackageNotInstalled


@contextmanager
def optional_import(what: str, install: str) -> Iterator[None]:
    """Around an import: where it fails, say what the package is needed for, and how it is installed.

    Raises:
        PackageNotInstalled: the import failed.
    """
    try:
        yield
    except ImportError as error:
        msg = f"{what} needs a package that is not installed ({error}): pip install {install}"
        raise PackageNotInstalled(msg) from error
