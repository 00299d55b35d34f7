"""Finds what a dotted path in the configuration names."""

from importlib import import_module
from typing import Any

from aimnet2mult.errors import ConfigError
from telemetry.errors import closest_match

__all__ = ["load_object"]


def load_object(path: object, key: str) -> Any:
    """Return the attribute of a module that `path`, as in ``torch.optim.RAdam``, names.

    Raises ConfigError naming the configuration `key` where the path is malformed, or the module or
    the attribute is not there; another error of the module while it is imported is passed on.
    """
    module_name, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module_name or not name:
        raise ConfigError(f"{key} is {path!r}; expected a dotted path, as in torch.optim.RAdam")
    try:
        module = import_module(module_name)
    except (ImportError, TypeError) as error:  # a TypeError for a relative path, as in ..loss.fn
        raise ConfigError(f"{key} is {path!r}; cannot import {module_name}: {error}") from error
    if not hasattr(module, name):
        match = closest_match(name, dir(module))
        hint = f"; did you mean {module_name}.{match}?" if match else ""
        raise ConfigError(f"{key} is {path!r}; {module_name} has no {name}{hint}")
    return getattr(module, name)
