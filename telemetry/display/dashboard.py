"""Compose the terminal view of runs: status lines, plots and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.display.plot_layout import Plot, main_plots, plots, run_labels
from telemetry.display.styles import styles
from telemetry.display.terminal_plot import ALERT_MARK, draw, side_by_side
from telemetry.display.text_width import cut, wrap
from telemetry.display.value_table import table
from telemetry.printable import shorten
from telemetry.reading.run import Run
from telemetry.records import Blob, Histogram, Media
from telemetry.run_folder.run_status import RunStatus

MIN_PLOT_WIDTH, MAX_PLOT_WIDTH = 38, 110
"""Width of plots placed side by side in a terminal, in columns; without one, ``FULL_WIDTH`` is the minimum."""
FULL_WIDTH = 72
PLOT_GAP = 2
"""Columns between plots placed side by side."""
MIN_PLOT_HEIGHT, GOOD_PLOT_HEIGHT, MAX_PLOT_HEIGHT = 5, 7, 14
"""Height of a plot, in lines, that is possible at all, still easy to read, and used where there is room."""
SCROLLED_PLOT_HEIGHT = 10
"""Height of plots that do not fit into the terminal together."""
MAX_ALERTS, MAX_ALERTS_WITH_ALL = 3, 20
"""Maximum number of alerts listed, newest last."""
MAX_MEDIA, MAX_MEDIA_WITH_ALL = 10, 200
"""Maximum number of names of images and so on that are listed."""
STATUS_TEXTS: dict[RunStatus, str] = {"unseen": "running or killed (its trainer cannot be checked from here)"}
"""Texts for statuses that do not explain themselves."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Layout of the terminal view: status, charts, values, alerts.

    Attributes:
        width: number of columns.
        height: number of lines per plot; None for as many as fit.
        rows: number of lines of the terminal; None if there is none.
        follow: whether the lines must fit into the rows.
        colors: whether lines may contain SGR escape sequences.
        patterns, last: arguments of ``plots``.
        all_charts: whether to show all charts and streams, not only the main ones.
    """

    width: int
    height: int | None = None
    rows: int | None = None
    follow: bool = False
    colors: bool = False
    patterns: Sequence[str] = ()
    last: int | None = None
    all_charts: bool = False

    def lines(self, runs: Sequence[Run]) -> list[str]:
        """Return the lines that show the runs.

        Without patterns, and unless ``all_charts`` is set, these are the main plots (see ``main_plots``), and of
        several runs only the validation.

        Raises:
            MetricNotFound: a pattern matches no metric of any run.
            PackageNotInstalled: plotext is not installed.
        """
        head = [line for run in runs for line in self._fit(_status_line(run))]
        found = plots(runs, self.patterns, self.last)
        # While runs are followed, the lines are needed for charts.
        limit = 0 if self.patterns or self.follow else MAX_MEDIA_WITH_ALL if self.all_charts else MAX_MEDIA
        media = [line for note in _media_lines(runs, limit) for line in self._fit(note)]
        if not found:
            return [*head, "no points for these metrics yet" if self.patterns else "no points yet", *media]
        selected = found if self.patterns or self.all_charts else main_plots(found, len(runs))
        notes = _alert_lines(runs, MAX_ALERTS_WITH_ALL if self.all_charts else MAX_ALERTS)
        if not self.patterns:
            notes += _hidden(found, selected)
        foot = [*media, *(line for note in notes for line in self._fit(note))]
        sections: dict[str, list[Plot]] = {}
        for plot in selected:
            sections.setdefault(plot.heading, []).append(plot)
        body: list[str] = []
        for heading, section in sections.items():
            title = [cut(heading, self.width)] if len(sections) > 1 else []
            body += [*title, *self._section(section, len(head) + len(body) + len(title) + len(foot) + 2)]
            if self.follow and self.rows is not None and len(sections) > 1:
                # Several sections never fit.
                more = len(selected) - len(section)
                body.append(f"{more} more charts do not fit; use --metric")
                break
        lines = [*head, "", *body, *foot]
        return lines[: self.rows - 1] if self.follow and self.rows is not None else lines

    def _fit(self, line: str) -> list[str]:
        # With a limited number of rows, a line must not wrap.
        return [cut(line, self.width)] if self.follow else wrap(shorten(line), self.width)

    def _section(self, section: Sequence[Plot], used: int) -> list[str]:
        """Return the charts and values of a section; ``used`` lines of the terminal are taken."""
        style = styles(section)
        values = table(section, style, self.width, colors=self.colors)
        count, height = self._grid(len(section), used + len(values) + 2)
        width = (self.width - PLOT_GAP * (count - 1)) // count
        out: list[str] = []
        for start in range(0, len(section), count):
            row = section[start : start + count]
            blocks = [draw(plot, style, width=width, height=height, colors=self.colors) for plot in row]
            # The note below takes a line, too.
            needed = used + len(values) + 2 + len(out) + height + 1 + (start + count < len(section))
            if out and self.follow and self.rows is not None and needed > self.rows:
                out.append(f"{len(section) - start} more charts do not fit; use --metric or a smaller --height")
                break
            out += side_by_side(blocks, width, PLOT_GAP)
        return [*out, "", *values, ""]

    def _grid(self, plots: int, used: int) -> tuple[int, int]:
        """Return the number of plots side by side, and the height of a plot in lines."""
        if self.rows is None:
            return max(
                1, min(plots, (self.width + PLOT_GAP) // (FULL_WIDTH + PLOT_GAP))
            ), self.height or MAX_PLOT_HEIGHT
        widest = max(1, min(plots, (self.width + PLOT_GAP) // (MIN_PLOT_WIDTH + PLOT_GAP)))
        for count in range(min(widest, -(-self.width // MAX_PLOT_WIDTH)), widest + 1):
            height = self.height or min(MAX_PLOT_HEIGHT, (self.rows - used) // -(-plots // count) - 1)
            if height >= GOOD_PLOT_HEIGHT and used + -(-plots // count) * (height + 1) <= self.rows:
                return count, height
        if not self.follow:
            return widest, self.height or SCROLLED_PLOT_HEIGHT
        return widest, max(MIN_PLOT_HEIGHT, min(self.height or GOOD_PLOT_HEIGHT, self.rows - used - 2))


def _hidden(found: Sequence[Plot], selected: Sequence[Plot]) -> list[str]:
    """Return a line that names what is not shown; the list is empty if everything is."""
    headings = dict.fromkeys(plot.heading for plot in found)
    streams = dict.fromkeys(each.stream for plot in found for each in plot.series)
    shown = {plot.heading for plot in selected} | {each.stream for plot in selected for each in plot.series}
    hidden = [name for name in headings | streams if name not in shown]
    return [f"not shown: {', '.join(hidden)} (--all shows everything)"] if hidden else []


def _status_line(run: Run) -> str:
    last = max((int(curve.steps.max()) for curve in run.curves.values()), default=0)
    head = run.header
    status = STATUS_TEXTS.get(run.status, run.status)
    points = f"last point at iteration {last}" if run.curves else "no points yet"
    return f"{head.name} ({head.run_id}), attempt {head.attempt}: {status}; {points}"


def _media_lines(runs: Sequence[Run], limit: int) -> list[str]:
    """Return where the newest image, table and so on of each name is, for up to ``limit`` names."""
    if not limit:
        return []
    newest: dict[tuple[int, str, str], str] = {}
    for number, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True)):
        of_run = f" of {label}" if len(runs) > 1 else ""
        for record in run.media:
            kind = type(record).__name__.lower()
            newest[number, kind, record.name] = (
                f"{kind} {record.name}{of_run} at iteration {record.step}: {_where(record)}"
            )
    lines = list(newest.values())
    more = [f"{len(lines) - limit} more (--all lists everything)"] if len(lines) > limit else []
    return [*lines[:limit], *more]


def _where(record: Media) -> str:
    """Return a pattern that a shell expands to the file in the run folder; the name itself takes a whole line."""
    if isinstance(record, Histogram):
        return f"{len(record.counts)} bins"
    blob: Blob = record.blob  # type: ignore[attr-defined] # all other kinds have one
    return f"blobs/{blob.sha256[:12]}*{blob.suffix}"


def _alert_lines(runs: Sequence[Run], limit: int) -> list[str]:
    labels = run_labels(runs)
    lines = [
        f"{' ' if alert.recovered else ALERT_MARK} iteration {alert.step}{f' of {label}' if len(runs) > 1 else ''}, "
        f"{alert.level}: {alert.message}"
        for run, label in zip(runs, labels, strict=True)
        for alert in run.alerts
    ]
    earlier = [f"{len(lines) - limit} earlier alerts"] if len(lines) > limit else []
    return [*earlier, *lines[-limit:]]
