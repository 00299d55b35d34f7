"""Check the arguments of ``open_run``, and accept other unambiguous forms of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from telemetry.errors import SettingError
from telemetry.metrics import Metric
from telemetry.recording.declarations import is_pattern
from telemetry.recording.point_values import name_problem
from telemetry.recording.steps import parse_step
from telemetry.redaction import redact_text
from telemetry.settings import Settings, parse_sinks


def parse_settings(settings: Settings | Mapping[str, Any] | None) -> Settings:
    """Return settings given as such, as a mapping, or not at all.

    Raises:
        SettingError: they are neither, or invalid.
    """
    if isinstance(settings, Settings):
        return settings
    return Settings() if settings is None else Settings.parse(settings)


def parse_sinks_argument(sinks: str | Iterable[str | object]) -> Iterable[str | object]:
    """Return the sinks given as a list, or as comma-separated names.

    Raises:
        SettingError: they are neither.
    """
    if isinstance(sinks, str):
        return parse_sinks(sinks)
    if not isinstance(sinks, Iterable) or isinstance(sinks, Mapping):
        kind = type(sinks).__name__
        hint = "set options of sinks in Settings(options=…)" if isinstance(sinks, Mapping) else f"such as [{kind}(…)]"
        msg = f"sinks is of type {kind}; expected a list of names or sink objects; {hint}"
        raise SettingError(msg)
    return sinks


def parse_resume_step(step: object) -> int:
    """Return the iteration after which a run resumes.

    Raises:
        SettingError: it is not an integer, or negative.
    """
    try:
        return parse_step(step)
    except ValueError as error:
        msg = f"resume_step is {step!r}; expected the last completed iteration, an integer of at least 0"
        raise SettingError(msg) from error


def check_metrics(metrics: object, *, resumes: bool) -> None:
    """Check the declarations of metrics.

    Raises:
        SettingError: they are not a mapping of full names to ``Metric``; all invalid names are listed.
    """
    if not isinstance(metrics, Mapping):
        msg = (
            f"metrics is of type {type(metrics).__name__}; expected a mapping of full names or patterns to "
            "declarations, such as {'train/loss': Metric()}"
        )
        raise SettingError(msg)
    if problems := [text for name, metric in metrics.items() if (text := _problem(name, metric, metrics, resumes))]:
        raise SettingError("; ".join(problems))


def _problem(name: object, metric: object, metrics: Mapping[Any, Any], resumes: bool) -> str:
    """Return what is wrong with the declaration of a metric; empty if nothing is."""
    stream, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    is_any = isinstance(name, str) and is_pattern(name)
    if not is_any and (not stream or not rest or rest.endswith("/")):
        return f"invalid metric name {name!r}; a full name is stream/metric, such as train/loss"
    if problem := name_problem(str(name)):
        return f"invalid metric name: {problem}"
    if redact_text(str(name)) != name and not resumes:
        return f"invalid metric name: {redact_text(str(name))!r} contains a credential, which *** replaces here"
    if not isinstance(metric, Metric):
        return f"metrics[{name!r}] is {metric!r}; expected a declaration, such as Metric(unit='kcal/mol')"
    # A fidelity may have the name of a stream, but then the metric also exists without it.
    if rest.startswith(f"{stream}/") and rest not in metrics and not resumes:
        return f"metric {name!r} names its stream twice; did you mean {rest!r}?"
    return ""
