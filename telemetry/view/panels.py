"""Tables and lists next to the charts, as HTML: alerts, delivery, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from telemetry.records import Alert
from telemetry.run_folder.paths import shell_path
from telemetry.run_folder.run_status import OPEN
from telemetry.view.run_entry import RunEntry, SinkState
from telemetry.view.style import LEVEL_COLORS
from telemetry.view.texts import escaped, step_text

MAX_ALERTS = 50
"""Number of alerts listed, the newest first."""
MAX_PARAMETER_RUNS = 20
"""Number of runs whose parameters are compared side by side."""


def events_panel(runs: Sequence[RunEntry]) -> str:
    """Return the alerts of the runs, newest first, and the delivery status of their sinks."""
    several = len(runs) > 1
    errors = [f"{escaped(entry.label)}: {escaped(entry.error)}" for entry in runs if entry.error]
    alerts, sinks = _alerts(runs, several=several), _sinks(runs, several=several)
    return f"{''.join(f'<p class=error>{each}</p>' for each in errors)}<h4>Alerts</h4>{alerts}<h4>Delivery</h4>{sinks}"


def _alerts(runs: Sequence[RunEntry], *, several: bool) -> str:
    found = [(alert, entry) for entry in runs for alert in entry.alerts]
    newest = sorted(found, key=lambda each: -each[0].time)
    items = [_alert(alert, f"{escaped(entry.label)}, " if several else "") for alert, entry in newest[:MAX_ALERTS]]
    if len(newest) > MAX_ALERTS:
        items.append(f"{len(newest) - MAX_ALERTS} earlier alerts")
    return _items(items) if items else "<p class='good'>No alerts</p>"


def _alert(alert: Alert, where: str) -> str:
    color = LEVEL_COLORS["info" if alert.recovered else alert.level]
    head = f"<b style='color:{color}'>{'recovered' if alert.recovered else alert.level}</b>"
    text = f"<br><small>{escaped(alert.text)}</small>" if alert.text else ""
    return f"{head}, {where}iteration {step_text(alert.step)}: {escaped(alert.title)}{text}"


def _sinks(runs: Sequence[RunEntry], *, several: bool) -> str:
    items = [
        _sink(entry, sink, f"{escaped(entry.label)}, " if several else "")
        for entry in runs
        for sink in entry.sinks
        if not several or sink.is_behind or sink.error
    ]
    if items:
        return _items(items)
    return f"<p>{'All records delivered' if any(entry.sinks for entry in runs) else 'No sinks'}</p>"


def _sink(entry: RunEntry, sink: SinkState, where: str) -> str:
    text = f"{where}<b>{escaped(sink.name)}</b>: {sink.delivered:,} delivered"
    if sink.is_behind:
        text += f", <b class='warning'>{sink.pending:,} pending</b>"
        if entry.status not in OPEN:
            command = f"telemetry sync {shell_path(entry.folder)} --telemetry-sinks {sink.name}"
            text += f"<br><small>if no process is delivering them: {escaped(command)}</small>"
    if sink.error:
        text += f"<br><small class='error'>{escaped(sink.error)}</small>"
    if sink.view:
        text += f"<br><small>view with: {escaped(sink.view)}</small>"
    return text


def _items(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def parameters_panel(runs: Sequence[RunEntry]) -> str:
    """Return the parameters of the runs side by side: first those that differ, then all."""
    compared = runs[:MAX_PARAMETER_RUNS]
    rows = compare_parameters(compared)
    if not rows:
        return ""
    head = "".join(f"<th>{escaped(entry.label)}</th>" for entry in compared)
    different = [(name, values) for name, values in rows.items() if len(set(values)) > 1]
    left = f"; the first {MAX_PARAMETER_RUNS} of {len(runs)} runs" if len(runs) > len(compared) else ""
    found = _details(f"All parameters ({len(rows)})", _table(head, list(rows.items())))
    if len(compared) > 1:
        title = f"Parameters that differ ({len(different)}{left})"
        found = _details(title, _table(head, different), attribute=" open") + found
    return found


def _details(title: str, content: str, attribute: str = "") -> str:
    return f"<details{attribute}><summary>{title}</summary>{content}</details>"


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
