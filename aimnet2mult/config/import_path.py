"""Import of the classes and functions that settings name by dotted path, from packages that the user trusts only."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from aimnet2mult.errors import ConfigError
from telemetry.errors import closest_match

__all__ = [
    "ALLOW_VARIABLE",
    "Role",
    "allow_flags",
    "allow_packages",
    "allowed_packages",
    "check_path",
    "check_trust",
    "load_object",
]

Role = Literal["model", "loss", "optimizer", "scheduler"]

TRUSTED: dict[Role, tuple[str, ...]] = {
    "model": ("aimnet.models", "aimnet.modules", "torch.nn"),
    "loss": ("aimnet2mult.train.loss", "aimnet2mult.train.adaptive_loss", "aimnet.train.loss"),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler", "ignite.handlers"),
}
"""Modules and packages whose classes and functions can be named without the user's consent."""
ALLOW_VARIABLE = "AIMNET2MULT_ALLOW_PACKAGE"
"""Environment variable with further packages, separated by spaces or commas."""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allow_packages(names: Iterable[str]) -> Iterator[None]:
    """Trust further packages within a ``with`` block, in addition to those in AIMNET2MULT_ALLOW_PACKAGE.

    Args:
        names: Names of packages or modules, such as ``mylab`` or ``mylab.losses``. They must come from the user, and
            never from a file or a run folder.

    Raises:
        ConfigError: A name is malformed.
    """
    given = {"--allow-package": tuple(names), ALLOW_VARIABLE: _from_environment()}
    wrong = [(source, name) for source, found in given.items() for name in found if not _NAME.fullmatch(name)]
    if wrong:
        raise ConfigError("\n".join(f"{source}: {name!r:.100} is not the name of a package" for source, name in wrong))
    token = _allowed.set((*_allowed.get(), *given["--allow-package"]))
    try:
        yield
    finally:
        _allowed.reset(token)


def allow_flags() -> str:
    """Return the flags with which a suggested command trusts the packages of ``allow_packages``, each after a space."""
    return "".join(f" --allow-package {name}" for name in dict.fromkeys(_allowed.get()))


def allowed_packages() -> tuple[str, ...]:
    """Return the names of the packages that the user trusts."""
    return tuple(dict.fromkeys((*_allowed.get(), *_from_environment())))


def check_path(path: object, key: str) -> str:
    """Check a dotted path as far as possible without importing anything, and return it.

    Args:
        path: Module and attribute, joined by a dot, such as ``torch.optim.RAdam``.
        key: Setting that contains the path, for error messages.

    Raises:
        ConfigError: The path is malformed, or there is no package of its first name.
    """
    if not isinstance(path, str) or not _NAME.fullmatch(path) or "." not in path:
        raise ConfigError(f"{key} is {path!r:.100}; expected a dotted path such as torch.optim.RAdam")
    package = path.partition(".")[0]
    if not _exists(package):
        module = path.rpartition(".")[0]
        raise ConfigError(
            f"{key} is {path!r}; cannot import {module}: No module named {package!r}; install it, or add its folder to "
            "PYTHONPATH"
        )
    return path


def check_trust(path: str, key: str, role: Role) -> None:
    """Check that a dotted path is in a module whose classes the user trusts, without importing anything.

    Args:
        path: Module and attribute, joined by a dot.
        key: Setting that contains the path, for error messages.
        role: What the class or function is used for.

    Raises:
        ConfigError: It is not; the message names the option that allows it.
    """
    module = path.rpartition(".")[0]
    if not _is_trusted(module, role):
        raise _untrusted(f"{key} is {path!r}", module, role)


def load_object(path: object, key: str, role: Role) -> Any:
    """Return the object with a dotted path such as ``torch.optim.RAdam``.

    Both the module in the path and the one that defines the object must be trusted, since modules contain whatever they
    import.

    Args:
        path: Module and attribute, joined by a dot.
        key: Setting that contains the path, for error messages.
        role: What the object is used for.

    Raises:
        ConfigError: The path is malformed or not trusted, or the module or attribute does not exist. Other errors
            raised while the module is imported are propagated.
    """
    path = check_path(path, key)
    check_trust(path, key, role)
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key} is {path!r}; cannot import {module_name}: {error}") from error
    if not hasattr(module, name):
        match = closest_match(name, dir(module))
        hint = f"; did you mean {module_name}.{match}?" if match else ""
        raise ConfigError(f"{key} is {path!r}; {module_name} has no {name}{hint}")
    found = getattr(module, name)
    defined_in = str(getattr(found, "__module__", None) or type(found).__module__)
    if callable(found) and not _is_trusted(defined_in, role):
        raise _untrusted(f"{key} is {path!r}, defined in {defined_in}", defined_in, role)
    return found


def _exists(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # __main__ has no specification
        return False


def _from_environment() -> tuple[str, ...]:
    return tuple(os.environ.get(ALLOW_VARIABLE, "").replace(",", " ").split())


def _is_trusted(module: str, role: Role) -> bool:
    trusted = (*TRUSTED[role], *_allowed.get(), *_from_environment())
    return any(module == name or module.startswith(f"{name}.") for name in trusted)


def _untrusted(what: str, module: str, role: Role) -> ConfigError:
    package = module.partition(".")[0]
    article = "an" if role == "optimizer" else "a"
    # A module of Python itself is never meant.
    hint = f"; if you trust it, and these settings, add --allow-package {package}"
    return ConfigError(
        f"{what}: {article} {role} may come from {', '.join(TRUSTED[role])}"
        + ("" if package in sys.stdlib_module_names else hint)
    )
