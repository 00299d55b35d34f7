"""Compose the terminal view of runs: status lines, plots and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.display.plot_layout import Plot, main_plots, plots, run_labels
from telemetry.display.terminal_plot import ALERT_MARK, draw, side_by_side
from telemetry.printable import printable, shorten
from telemetry.reading.run import Run
from telemetry.records import Alert
from telemetry.run_folder.run_status import RunStatus

MIN_PLOT_WIDTH = 72
"""Minimum width of plots placed side by side, in characters."""
PLOT_GAP = 2
"""Columns between plots placed side by side."""
MIN_PLOT_HEIGHT = 5
"""Minimum height of a plot, in lines."""
RESERVED_LINES = 9
"""Lines reserved for the title and legend of a plot and for the note about charts that do not fit."""
MAX_ALERTS = 10
"""Maximum number of alerts listed, newest last."""
STATUS_TEXTS: dict[RunStatus, str] = {"unseen": "running or killed (its trainer cannot be checked from here)"}
"""Texts for statuses that do not explain themselves."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Layout of the terminal view.

    Attributes:
        width: number of characters per line.
        height: number of lines per plot.
        rows: number of available lines; None for no limit.
        colours: whether lines may contain SGR escape sequences.
        patterns, last: arguments of ``plots``.
    """

    width: int
    height: int
    rows: int | None = None
    colours: bool = False
    patterns: Sequence[str] = ()
    last: int | None = None

    def lines(self, runs: Sequence[Run]) -> list[str]:
        """Return the lines that show the runs; without patterns, only the main plots (see ``main_plots``).

        Raises:
            MetricNotFound: a pattern matches no metric of any run.
            PackageNotInstalled: plotext is not installed.
        """
        head = [self._fit(_status_line(run)) for run in runs]
        found = plots(runs, self.patterns, self.last)
        if not found:
            return [*head, "no points for these metrics yet" if self.patterns else "no points yet"]
        selected = found if self.patterns else main_plots(found)
        foot = [self._fit(line) for line in _alert_lines(runs)]
        if len(selected) < len(found):
            shown = {plot.heading for plot in selected}
            hidden = ", ".join(dict.fromkeys(plot.heading for plot in found if plot.heading not in shown))
            foot.append(self._fit(f"not shown: {hidden} (use --metric '*' to show all)"))
        return [*head, "", *self._plot_lines(selected, len(head) + 1 + len(foot)), *foot]

    def _fit(self, line: str) -> str:
        # With a limited number of rows, a line must not wrap.
        return printable(shorten(line) if self.rows is None else line[: self.width])

    def _plot_lines(self, selected: Sequence[Plot], used: int) -> list[str]:
        columns = max(1, min(len(selected), (self.width + PLOT_GAP) // (MIN_PLOT_WIDTH + PLOT_GAP)))
        width = (self.width - PLOT_GAP * (columns - 1)) // columns
        height = self.height
        if self.rows is not None:
            height = max(MIN_PLOT_HEIGHT, min(height, self.rows - used - RESERVED_LINES))
        out: list[str] = []
        for start in range(0, len(selected), columns):
            row = selected[start : start + columns]
            blocks = [draw(plot, width=width, height=height, colours=self.colours) for plot in row]
            lines = side_by_side(blocks, width, PLOT_GAP)
            # Three more lines follow: a blank line, the note below, and the cursor line.
            if out and self.rows is not None and used + len(out) + len(lines) + 3 > self.rows:
                out.append(f"{len(selected) - start} more do not fit; use --metric or a smaller --height")
                break
            out += [*lines, ""]
        return out


def _status_line(run: Run) -> str:
    last = max((int(curve.steps.max()) for curve in run.curves.values()), default=0)
    head = run.header
    status = STATUS_TEXTS.get(run.status, run.status)
    return f"{head.name} ({head.run_id}), attempt {head.attempt}: {status}; last point at iteration {last}"


def _alert_lines(runs: Sequence[Run]) -> list[str]:
    labels = run_labels(runs)
    lines = [
        f"{' ' if alert.recovered else ALERT_MARK} iteration {alert.step}{f' of {label}' if len(runs) > 1 else ''}, "
        f"{alert.level}: {_alert_text(alert)}"
        for run, label in zip(runs, labels, strict=True)
        for alert in run.alerts
    ]
    earlier = [f"{len(lines) - MAX_ALERTS} earlier alerts"] if len(lines) > MAX_ALERTS else []
    return [*earlier, *lines[-MAX_ALERTS:]]


def _alert_text(alert: Alert) -> str:
    return f"{alert.title}: {alert.text}" if alert.text else alert.title
