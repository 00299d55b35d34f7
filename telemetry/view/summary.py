"""The line below the title of a chart: direction, current and best values, and values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from telemetry.metrics import VALIDATION, stream_of
from telemetry.reading.best_value import best_of_curve
from telemetry.reading.curve import Curve
from telemetry.view.chart_list import ChartSpec
from telemetry.view.lines import Line
from telemetry.view.texts import number_text, plain, step_text

Curves = Mapping[tuple[str, str], Curve]
"""Curves by key of the run and full name of the metric."""


class Summary(NamedTuple):
    """The text, and whether a value is not finite."""

    text: str
    is_bad: bool


def summarize_chart(spec: ChartSpec, lines: Sequence[Line], curves: Curves) -> Summary:
    """Return the summary of a chart with at least one line; values are those of validation if it is on the chart."""
    import numpy as np

    shown = [line for line in lines if stream_of(line.name) == VALIDATION] or lines[-1:]
    parts = []
    if len({line.run for line in lines}) > 1:
        found = ((line, best_of_curve(curves[line.run, line.name])) for line in shown)
        best = [(each.value, line.label) for line, each in found if each is not None]
        if best and spec.better:
            value, label = min(best, key=lambda each: each[0] if spec.better == "lower" else -each[0])
            parts.append(f"best {number_text(value)}: {plain(label)}")
    else:
        parts.append(_last_and_best(curves[shown[0].run, shown[0].name]))
    if spec.better:
        parts.append(f"{spec.better} is better")
    bad = sum(int((~np.isfinite(curves[line.run, line.name].values)).sum()) for line in lines)
    if bad:
        parts.insert(0, f"{bad:,} {'value is' if bad == 1 else 'values are'} not finite")
    return Summary(" · ".join(parts), bool(bad))


def _last_and_best(curve: Curve) -> str:
    last = f"{stream_of(curve.name)} {number_text(float(curve.values[-1]))}"
    best = best_of_curve(curve)
    return f"{last}, best {number_text(best.value)} at {step_text(best.step)}" if best else last
