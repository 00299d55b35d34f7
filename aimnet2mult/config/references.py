"""References in settings: ``${trainer.epochs}`` to another setting, ``${oc.env:SCRATCH}`` to the environment.

The values of settings are recorded with the run, and settings may come from others. Therefore only variables that
locate things can be used, and no credentials.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from aimnet2mult.errors import ConfigError, Problems

__all__ = ["VARIABLES", "escape", "resolve"]

VARIABLES = (
    "HOME",
    "HOSTNAME",
    "LOGNAME",
    "PROJECT",
    "SCRATCH",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_SUBMIT_DIR",
    "SLURM_TMPDIR",
    "TMPDIR",
    "USER",
    "WORK",
)
"""Environment variables that settings may contain."""
MAX_DEPTH = 20
"""Maximum length of a chain of references; a longer one is reported as a cycle."""
MAX_SIZE = 100_000
"""Maximum number of values and characters that references may produce in total."""

_REFERENCE = re.compile(
    r"(?P<escaped>\\\$\{)"
    r"|\$\{(?P<key>[\w-]+(?:\.[\w-]+)*)\}"
    r"|\$\{oc\.env:(?P<variable>\w+)(?:,(?P<default>[^{}$]*))?\}"
    r"|(?P<invalid>\$\{)"
)


def resolve(settings: dict[str, Any], problems: Problems) -> dict[str, Any]:
    r"""Return merged settings with all references replaced by what they refer to.

    A text that is nothing but a reference gets the type of the value. ``\${`` stands for ``${``.

    Args:
        settings: The settings.
        problems: Collects a problem for each text with a reference that is invalid, or refers to nothing, to itself, to
            options of sinks, which may be credentials, or to a variable that is not among VARIABLES. The text is kept.
    """
    resolved: dict[str, Any] = _Resolver(settings, problems).resolve(settings, "")
    return resolved


def escape(value: Any) -> Any:
    """Return a value whose texts `resolve` leaves unchanged."""
    if isinstance(value, Mapping):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


class _Resolver:
    def __init__(self, settings: Mapping[str, Any], problems: Problems) -> None:
        self._settings = settings
        self._problems = problems
        self._left = MAX_SIZE

    def resolve(self, value: Any, key: str, depth: int = 0) -> Any:
        """Return the value of the setting ``key`` without references, of which ``depth`` have led to it."""
        if depth:
            self._left -= len(value) if isinstance(value, str) else 1
        if isinstance(value, Mapping):
            return {
                name: self.resolve(item, f"{key}.{name}" if key else str(name), depth) for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.resolve(item, f"{key}[{index}]", depth) for index, item in enumerate(value)]
        if value == "???":
            self._problems.add(f"{key} is ???; set it, for example {key}=VALUE")
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return self._text(value, depth)
        except ConfigError as error:
            self._problems.add(f"{key} is {value!r:.100}: {error}")
            return value

    def _text(self, text: str, depth: int) -> Any:
        if (found := _REFERENCE.fullmatch(text)) and not found["escaped"]:
            return self._target(found, depth)
        return _REFERENCE.sub(lambda found: "${" if found["escaped"] else str(self._target(found, depth)), text)

    def _target(self, found: re.Match[str], depth: int) -> Any:
        if depth >= MAX_DEPTH or self._left < 0:
            raise ConfigError("the references form a cycle, or there are too many of them")
        if found["variable"]:
            return _variable(found["variable"], found["default"])
        if not found["key"]:
            raise ConfigError("expected a reference such as ${trainer.epochs} or ${oc.env:SCRATCH}; \\${ is a plain ${")
        words = found["key"].split(".")
        target = self._find(words)
        if words[0] == "telemetry" and (words[2:] or isinstance(target, Mapping)):
            raise ConfigError("options of sinks, which may be credentials, cannot be referred to; repeat the value")
        return self.resolve(target, found["key"], depth + 1)

    def _find(self, words: list[str]) -> Any:
        node: Any = self._settings
        for word in words:
            names = {str(name): name for name in node} if isinstance(node, Mapping) else {}
            if word not in names:
                raise ConfigError(f"there is no setting {'.'.join(words)}")
            node = node[names[word]]
        return node


def _variable(name: str, default: str | None) -> str:
    if name not in VARIABLES:
        raise ConfigError(
            f"the environment variable {name} cannot be used in settings, only {', '.join(VARIABLES)}; give the value"
            f' on the command line, where the shell inserts it: KEY="${name}"'
        )
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"the environment variable {name} is not set")
    return value
