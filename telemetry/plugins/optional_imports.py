"""Imports of packages that the base installation does not include."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from telemetry.errors import PackageNotInstalled


@contextmanager
def optional_import(what: str, install: str) -> Iterator[None]:
    """Wrap an import; if it fails, report what needs the package and how to install it.

    Args:
        what: the feature that needs the package, as the subject of the message.
        install: the package to install, as an argument to ``pip install``.

    Raises:
        PackageNotInstalled: the import failed.
    """
    try:
        yield
    except ImportError as error:
        msg = f"{what} needs a package that is not installed ({error}): pip install {install}"
        raise PackageNotInstalled(msg) from error
