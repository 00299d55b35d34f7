"""Import of the classes and functions that settings name by dotted path."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aimnet2mult.errors import ConfigError
from telemetry.errors import closest_match

__all__ = ["check_path", "load_object"]


def check_path(path: object, key: str) -> str:
    """Check a dotted path as far as possible without importing anything, and return it.

    Args:
        path: Module and attribute, joined by a dot, such as ``torch.optim.RAdam``.
        key: Setting that contains the path, for error messages.

    Raises:
        ConfigError: The path is malformed, or there is no package of its first name.
    """
    module_name, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not isinstance(path, str) or not module_name or not name:
        raise ConfigError(f"{key} is {path!r}; expected a dotted path such as torch.optim.RAdam")
    package = module_name.partition(".")[0]
    if package and find_spec(package) is None:
        raise ConfigError(f"{key} is {path!r}; cannot import {module_name}: No module named {package!r}")
    return path


def load_object(path: object, key: str) -> Any:
    """Return the object with a dotted path such as ``torch.optim.RAdam``.

    Args:
        path: Module and attribute, joined by a dot.
        key: Setting that contains the path, for error messages.

    Raises:
        ConfigError: The path is malformed, or the module or attribute does not exist. Other errors raised while the
            module is imported are propagated.
    """
    module_name, _, name = check_path(path, key).rpartition(".")
    try:
        module = import_module(module_name)
    except (ImportError, TypeError) as error:  # TypeError for a relative path such as ..loss.fn
        raise ConfigError(f"{key} is {path!r}; cannot import {module_name}: {error}") from error
    if not hasattr(module, name):
        match = closest_match(name, dir(module))
        hint = f"; did you mean {module_name}.{match}?" if match else ""
        raise ConfigError(f"{key} is {path!r}; {module_name} has no {name}{hint}")
    return getattr(module, name)
