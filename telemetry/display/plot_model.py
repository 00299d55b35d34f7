"""What is drawn, wherever it is drawn: which curves of which runs share a plot, and on which scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from telemetry.display.grouping import OVERALL, charts
from telemetry.metrics import Metric
from telemetry.reading.curve import Curve
from telemetry.reading.run import Run
from telemetry.reading.selection import choose
from telemetry.records import Alert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPREAD = 10.0
"""A logarithmic scale helps from this ratio of the largest to the smallest value on …"""
SQUEEZED = 0.25
"""… if half of the values would lie in this lowest part of a linear one."""
LARGEST = 1e300
"""What is larger is drawn as large as this: the difference of two such numbers is still one."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve on a plot.

    Attributes:
        curve: its points, those that are not finite too.
        run: which of the runs it is of, counted from 0.
        stream: what the run calls it.
        label: tells it from the others on the plot.
    """

    curve: Curve
    run: int
    stream: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves of one quantity in one unit.

    Attributes:
        heading: what the chart stands under (see ``charts``).
        title: the quantity, with its unit.
        series: at least one, each with at least one point.
        alerts: of the runs, those that are about these curves or about none in particular, and are not over.
    """

    heading: str
    title: str
    series: list[Series] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    @property
    def is_log(self) -> bool:
        """Say whether a logarithmic scale shows more."""
        import numpy as np

        values = np.concatenate([each.curve.values for each in self.series])
        values = np.minimum(values[np.isfinite(values)], LARGEST)
        if not len(values) or values.min() < 1 / LARGEST or values.max() / SPREAD < values.min():
            return False
        return bool(np.median(values) - values.min() < SQUEEZED * (values.max() - values.min()))


def plots(runs: Sequence[Run], patterns: Sequence[str] = (), last: int | None = None) -> list[Plot]:
    """Give the plots of some runs, those of one heading together.

    Args:
        runs: what is compared.
        patterns: which metrics (see ``choose``); without one all that have points.
        last: only the points of so many iterations before the end of each run.

    Raises:
        MetricNotFound: no run has a metric that a pattern fits.
    """
    wanted = set(choose(patterns, [name for run in runs for name in (*run.header.metrics, *run.curves)]))
    names = run_labels(runs)
    found: dict[tuple[str, str, str], Plot] = {}
    for number, run in enumerate(runs):
        curves = {name: curve for name, curve in _ends(run, last).items() if name in wanted}
        for heading, group in charts({n: Metric(unit=c.unit, label=c.label) for n, c in curves.items()}).items():
            for chart in group:
                # By what the streams call it: runs may describe it in different words.
                key = (heading, chart.names[0].partition("/")[2], curves[chart.names[0]].unit)
                plot = found.setdefault(key, Plot(heading=heading, title=chart.title))
                for name in chart.names:
                    stream = name.partition("/")[0]
                    label = f"{names[number]} {stream}" if len(runs) > 1 else stream
                    plot.series.append(Series(curve=curves[name], run=number, stream=stream, label=label))
                plot.alerts.extend(_about(run.alerts, chart.names, set(run.curves)))
    headings = list(dict.fromkeys(plot.heading for plot in found.values()))
    return sorted(found.values(), key=lambda plot: headings.index(plot.heading))


def main_plots(found: Sequence[Plot]) -> list[Plot]:
    """Give the plots of what belongs to no part of the data; all where there are none."""
    return [plot for plot in found if plot.heading == OVERALL] or list(found)


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Give a name for each run that no other has: the run's name, else its id, else its folder."""
    for choice in ([r.header.name for r in runs], [r.header.run_id for r in runs], [str(r.folder) for r in runs]):
        if max(Counter(choice).values(), default=1) == 1:
            return choice
    return [f"{number} {run.folder}" for number, run in enumerate(runs, 1)]


def thinned(curve: Curve, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the steps and values of a curve that show in so many columns: the extremes of each, finite ones alone."""
    import numpy as np

    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite], np.clip(curve.values[finite], -LARGEST, LARGEST)
    if len(values) <= 2 * columns:
        return steps, values
    ends = np.linspace(0, len(values), columns + 1).astype(int)
    keep = [start + extreme(values[start:end]) for start, end in pairwise(ends) for extreme in (np.argmin, np.argmax)]
    # The last point is where the curve has got to.
    chosen = np.unique([*keep, len(values) - 1])
    return steps[chosen], values[chosen]


def _ends(run: Run, last: int | None) -> dict[str, Curve]:
    if last is None or not run.curves:
        return dict(run.curves)
    after = max(int(curve.steps.max()) for curve in run.curves.values()) - last
    cut = {name: _after(curve, after) for name, curve in run.curves.items()}
    return {name: curve for name, curve in cut.items() if len(curve)}


def _after(curve: Curve, step: int) -> Curve:
    keep = curve.steps > step
    return replace(
        curve,
        steps=curve.steps[keep],
        times=curve.times[keep],
        values=curve.values[keep],
        superseded=curve.superseded[keep],
    )


def _about(alerts: Iterable[Alert], names: Iterable[str], known: set[str]) -> list[Alert]:
    return [a for a in alerts if not a.recovered and (a.metric in names or a.metric not in known)]
