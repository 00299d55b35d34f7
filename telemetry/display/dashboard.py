"""Runs as they are shown in a terminal: how each stands, its plots, and its alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.display.plot_model import Plot, main_plots, plots, run_labels
from telemetry.display.printable import printable
from telemetry.display.terminal_plot import ALERT, beside, draw
from telemetry.reading.run import Run
from telemetry.records import Alert
from telemetry.run_folder.run_status import RunStatus

NARROW = 72
"""Characters of a plot from which on two of them go beside each other."""
GAP = 2
LOWEST, WORDS = 5, 9
"""Lines of a plot, at least; lines that are kept for its title and legend, and for what is said of others."""
ALERTS = 10
"""Alerts that are listed, the last ones."""
STANDING: dict[RunStatus, str] = {"unseen": "running, or ended without a word (its trainer cannot be seen from here)"}


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How runs are shown.

    Attributes:
        width: characters of a line.
        height: lines of a plot.
        rows: lines that there are room for; None for any number.
        colours: lines may hold SGR sequences.
        patterns, last: see ``plots``.
    """

    width: int
    height: int
    rows: int | None = None
    colours: bool = False
    patterns: Sequence[str] = ()
    last: int | None = None

    def lines(self, runs: Sequence[Run]) -> list[str]:
        """Give the lines that show some runs; see ``plots`` and ``draw`` for what is raised.

        Without a pattern these are the plots of what belongs to no part of the data, if there are any.
        """
        head = [self._text(_standing(run)) for run in runs]
        found = plots(runs, self.patterns, self.last)
        if not found:
            return [*head, "no points of these metrics yet" if self.patterns else "no points yet"]
        wanted = found if self.patterns else main_plots(found)
        foot = [self._text(line) for line in _alerts(runs)]
        if len(wanted) < len(found):
            shown = {plot.heading for plot in wanted}
            others = ", ".join(dict.fromkeys(plot.heading for plot in found if plot.heading not in shown))
            foot.append(self._text(f"left out: {others}; --metric '*' shows all"))
        return [*head, "", *self._blocks(wanted, len(head) + 1 + len(foot)), *foot]

    def _text(self, line: str) -> str:
        # Where there is room for so many lines, none may become two.
        return printable(line)[: None if self.rows is None else self.width]

    def _blocks(self, wanted: Sequence[Plot], used: int) -> list[str]:
        columns = max(1, min(len(wanted), (self.width + GAP) // (NARROW + GAP)))
        width = (self.width - GAP * (columns - 1)) // columns
        height = self.height
        if self.rows is not None:
            height = max(LOWEST, min(height, self.rows - used - WORDS))
        out: list[str] = []
        for start in range(0, len(wanted), columns):
            row = wanted[start : start + columns]
            lines = beside([draw(p, width=width, height=height, colours=self.colours) for p in row], width)
            if out and self.rows is not None and used + len(out) + len(lines) + 3 > self.rows:
                out.append(f"{len(wanted) - start} more that do not fit: choose with --metric, or --height")
                break
            out += [*lines, ""]
        return out


def _standing(run: Run) -> str:
    last = max((int(curve.steps.max()) for curve in run.curves.values()), default=0)
    head = run.header
    status = STANDING.get(run.status, run.status)
    return f"{head.name} ({head.run_id}), attempt {head.attempt}: {status}; last point at iteration {last}"


def _alerts(runs: Sequence[Run]) -> list[str]:
    labels = run_labels(runs)
    told = [
        f"{' ' if alert.recovered else ALERT} iteration {alert.step}{f' of {label}' if len(runs) > 1 else ''}, "
        f"{alert.level}: {_words(alert)}"
        for run, label in zip(runs, labels, strict=True)
        for alert in run.alerts
    ]
    left = [f"{len(told) - ALERTS} earlier alerts"] if len(told) > ALERTS else []
    return [*left, *told[-ALERTS:]]


def _words(alert: Alert) -> str:
    return f"{alert.title}: {alert.text}" if alert.text else alert.title
