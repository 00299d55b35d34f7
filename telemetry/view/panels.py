"""Tables and lists next to the charts, as HTML: alerts, delivery, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from telemetry.view.run_entry import RunEntry, SinkState
from telemetry.view.style import LEVEL_COLORS
from telemetry.view.texts import escaped, step_text

MAX_ALERTS = 50
"""Number of alerts listed per run, the newest first."""
MAX_PARAMETER_RUNS = 20
"""Number of runs whose parameters are compared side by side."""


def events_panel(runs: Sequence[RunEntry]) -> str:
    """Return the alerts of the runs, newest first, and the delivery status of their sinks."""
    return "".join(_events(entry, several=len(runs) > 1) for entry in runs)


def _events(entry: RunEntry, *, several: bool) -> str:
    head = f"<h3>{escaped(entry.label)}</h3>" if several else ""
    if entry.error:
        return f"{head}<p class='error'>{escaped(entry.error)}</p>"
    return f"{head}<h4>Alerts</h4>{_alerts(entry)}<h4>Delivery</h4>{_sinks(entry.sinks)}"


def _alerts(entry: RunEntry) -> str:
    if not entry.alerts:
        return "<p class='good'>No alerts</p>"
    newest = list(reversed(entry.alerts))
    items = [
        f"<li><b style='color:{_color(alert.level, recovered=alert.recovered)}'>"
        f"{'recovered' if alert.recovered else alert.level}</b> at {step_text(alert.step)}: "
        f"{escaped(alert.title)}{f'<br><small>{escaped(alert.text)}</small>' if alert.text else ''}</li>"
        for alert in newest[:MAX_ALERTS]
    ]
    if len(newest) > MAX_ALERTS:
        items.append(f"<li>{len(newest) - MAX_ALERTS} earlier alerts</li>")
    return f"<ul>{''.join(items)}</ul>"


def _color(level: str, *, recovered: bool) -> str:
    return LEVEL_COLORS["info"] if recovered else LEVEL_COLORS[level]


def _sinks(sinks: Sequence[SinkState]) -> str:
    if not sinks:
        return "<p>No sinks; all records are in the journal</p>"
    return f"<ul>{''.join(f'<li>{_sink(sink)}</li>' for sink in sinks)}</ul>"


def _sink(sink: SinkState) -> str:
    state = f"<b>{escaped(sink.name)}</b>: {sink.delivered:,} delivered"
    if sink.pending:
        state += f", <b class='warning'>{sink.pending:,} pending</b>"
    if sink.error:
        state += f"<br><small class='error'>{escaped(sink.error)}</small>"
    if sink.view:
        state += f"<br><small>{escaped(sink.view)}</small>"
    return state


def parameters_panel(runs: Sequence[RunEntry]) -> str:
    """Return the parameters of the runs side by side: first those that differ, then all."""
    compared = runs[:MAX_PARAMETER_RUNS]
    rows = compare_parameters(compared)
    if not rows:
        return ""
    head = "".join(f"<th>{escaped(entry.label)}</th>" for entry in compared)
    different = [(name, values) for name, values in rows.items() if len(set(values)) > 1]
    left = f"; the first {MAX_PARAMETER_RUNS} of {len(runs)} runs" if len(runs) > len(compared) else ""
    parts = []
    if len(compared) > 1:
        parts.append(f"<details open><summary>Parameters that differ ({len(different)}{left})</summary>{_table(head, different)}</details>")
    parts.append(f"<details><summary>All parameters ({len(rows)})</summary>{_table(head, list(rows.items()))}</details>")
    return "".join(parts)


def compare_parameters(runs: Sequence[RunEntry]) -> dict[str, list[str]]:
    """Return the values of each parameter by dotted name, one per run; empty if a run does not have it."""
    flat = [flatten(entry.header.params) for entry in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    return {name: [each.get(name, "") for each in flat] for name in names}


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as texts by dotted name."""
    out: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            out.update(flatten(value, f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = "" if value is None else str(value)
    return out


def _table(head: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    if not rows:
        return "<p>None</p>"
    body = "".join(
        f"<tr{' class=different' if len(set(values)) > 1 else ''}><th>{escaped(name)}</th>"
        f"{''.join(f'<td>{escaped(value)}</td>' for value in values)}</tr>"
        for name, values in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"
