"""Credentials among the options of a sink, which the run folder does not contain."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from telemetry.errors import SettingError
from telemetry.redaction import is_redacted, names_credential


def variable(sink: str, option: str) -> str:
    """Return the environment variable of an option, such as TELEMETRY_MLFLOW_TRACKING_URI."""
    return re.sub(r"\W", "_", f"telemetry_{sink}_{option}").upper()


def with_credentials(sink: str, known: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a sink with the missing credentials, which come from the environment.

    Args:
        sink: the name of the sink.
        known: the names of all options.
        given: the options given or stored in the run folder, there without credentials.

    Raises:
        SettingError: credentials of the run are not in the environment; the message names all variables.
    """
    options = dict(given)
    stored = [name for name, value in given.items() if is_redacted(value)]
    for name in [*stored, *(name for name in known if name not in given and names_credential(name))]:
        if value := os.environ.get(variable(sink, name)):
            options[name] = _parse(sink, name, value) if isinstance(given.get(name), dict | list) else value
    if missing := [name for name in stored if options[name] is given[name]]:
        msg = (
            f"sink {sink!r} needs {', '.join(missing)}, and run folders do not contain credentials: set "
            f"{' and '.join(variable(sink, name) for name in missing)} in the environment"
        )
        raise SettingError(msg)
    return options


def _parse(sink: str, option: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        msg = f"{variable(sink, option)} is not JSON, but the option {option!r} is a mapping or a list"
        raise SettingError(msg) from None
