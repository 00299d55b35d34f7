"""Imports of packages that the base installation does not include."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec

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


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it or, unlike ``find_spec``, its parents.

    A folder without ``__init__.py`` does not count, although Python could import it: SDKs create folders with their own
    names for their data, such as ``wandb`` in the working directory.
    """
    top, *parts = module.split(".")
    spec = find_spec(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return False
        # The last part of the name is enough; with the whole name, namespace packages need their parents in memory.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    # A namespace package has no origin.
    return spec is not None and spec.origin is not None
