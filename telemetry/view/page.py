"""The live page: one instance for each open browser tab."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

from bokeh.document import Document

from telemetry.metrics import stream_of
from telemetry.view.chart import Chart, View, new_charts
from telemetry.view.chart_list import ChartSpec, chart_specs, headings, streams
from telemetry.view.figures import Shared
from telemetry.view.layout import Layout
from telemetry.view.lines import Window
from telemetry.view.run_entry import RunEntry
from telemetry.view.store import RunStore
from telemetry.view.summary import Curves

READ_TIME = 1.0
"""Time in seconds for which runs are read before those read so far are drawn; it doubles until all are drawn."""
MAX_CHARTS = 60
"""Maximum number of charts; each takes up to 0.1 s."""
ZOOM_DELAY_MS = 250
"""Delay after the last change of the range until curves are thinned for it."""


class Page:
    """Show runs in a document, and follow them.

    All callbacks run in the event loop of the server; curves are read in a thread. Bokeh sends nothing to the browser,
    and handles no input, before a callback has ended, so none reads for long.
    """

    def __init__(self, document: Document, store: RunStore, selected: Sequence[str], interval: float) -> None:
        self._document = document
        self._store = store
        self._selected = list(selected)
        self._versions: dict[str, int] = {}
        self._charts: list[Chart] = []
        self._specs: list[ChartSpec] = []
        self._select_newest, self._redraws = not selected, False
        self._unread, self._read_time = 0, READ_TIME
        self._window: Window | None = None
        self._zoom_timer: object | None = None
        self._shared = Shared()
        for end in ("start", "end"):
            self._shared.x_range.on_change(end, self._zoomed)
        self._layout = Layout(
            self._select, on_change=self._redraw_soon, on_step=lambda: self._layout.media.show(self._runs())
        )
        document.title = "telemetry view"
        document.add_root(self._layout.root)
        self._redraw_soon()
        document.add_periodic_callback(self._update, round(1000 * interval))

    def _runs(self) -> list[RunEntry]:
        entries = {entry.key: entry for entry in self._store.runs()}
        return [entries[key] for key in self._selected if key in entries]

    def _select(self, keys: list[str]) -> None:
        # Runs keep their colors while others are added.
        self._selected = [key for key in self._selected if key in keys] + [k for k in keys if k not in self._selected]
        self._redraw_soon()

    def _redraw_soon(self) -> None:
        if not self._redraws:
            self._redraws = True
            self._document.add_next_tick_callback(self._redraw)

    async def _redraw(self) -> None:
        """Draw the charts anew, after a change of what is shown."""
        self._redraws = False
        runs = self._runs()
        self._specs = chart_specs(runs)
        self._layout.controls.offer(streams(self._specs), headings(self._specs), several=len(runs) > 1)
        view, curves = self._view(runs), await self._curves(runs)
        await self._layout.media.show(runs)
        # Otherwise, Bokeh would visit all its objects after each change.
        with self._document.models.freeze():
            shown = self._shown_specs()[:MAX_CHARTS]
            self._charts = new_charts(shown, view, curves, self._shared, self._layout.controls.scale)
            self._layout.show_charts(self._charts, self._note(runs))
            self._show_runs(runs)
        self._read_on(len(runs))

    def _read_on(self, runs: int) -> None:
        """Read the remaining runs after the browser has received what has been drawn."""
        self._layout.controls.progress.text = f"{runs - self._unread} of {runs} runs read …" if self._unread else ""
        self._read_time = 2 * self._read_time if self._unread else READ_TIME
        if self._unread:
            self._redraw_soon()

    async def _update(self) -> None:
        """Draw what is new."""
        if self._unread:
            return
        versions = {entry.key: self._store.version(entry.key) for entry in self._store.runs()}
        if versions == self._versions:
            return
        self._versions = versions
        if self._select_newest and versions:
            self._select_newest, self._selected = False, [self._store.runs()[0].key]
        await self._show_again()

    async def _show_again(self) -> None:
        """Update the charts; draw them anew only if there are other lines."""
        runs = self._runs()
        view, curves = self._view(runs), await self._curves(runs)
        lines = {(line.run, line.name) for chart in self._charts for line in chart.lines}
        if self._unread or lines != set(curves) or chart_specs(runs) != self._specs:
            await self._redraw()
            return
        await self._layout.media.show(runs)
        with self._document.models.freeze():
            for chart in self._charts:
                chart.update(view, curves)
            self._show_runs(runs)

    def _show_runs(self, runs: Sequence[RunEntry]) -> None:
        self._layout.show_runs(self._store.runs(), runs, [entry.key for entry in runs])

    def _note(self, runs: Sequence[RunEntry]) -> str:
        """Return why charts are missing; empty if none are."""
        if (count := len(self._shown_specs())) > MAX_CHARTS:
            return f"The first {MAX_CHARTS} of {count:,} charts are shown"
        if self._charts:
            return ""
        if not runs:
            return "Select a run in the table" if self._store.runs() else "No runs yet"
        if all(entry.error for entry in runs):
            return ""  # the reasons are listed next to it
        if self._specs and any(entry.step for entry in runs):
            return "The selected streams and charts have no points"
        return "Reading …" if self._unread or any(entry.step for entry in runs) else "No points yet"

    def _view(self, runs: Sequence[RunEntry]) -> View:
        controls = self._layout.controls
        shown, smoothing = controls.streams, controls.smoothing
        return View(runs=runs, streams=streams(self._specs), shown=shown, window=self._window, smoothing=smoothing)

    def _shown_specs(self) -> list[ChartSpec]:
        return [spec for spec in self._specs if spec.heading in self._layout.controls.headings]

    async def _curves(self, runs: Sequence[RunEntry]) -> Curves:
        """Read the curves that are shown, for a limited time; only those that have points."""
        found: dict[tuple[str, str], Any] = {}
        specs, view = self._shown_specs()[:MAX_CHARTS], self._view(runs)
        end = time.monotonic() + self._read_time
        unread = list(runs)
        while unread and (len(unread) == len(runs) or time.monotonic() < end):
            entry = unread.pop(0)
            names = [name for spec in specs for name in spec.names.get(entry.key, []) if view.shows(stream_of(name))]
            curves = await asyncio.to_thread(self._store.curves, entry.key, names)
            found.update({(entry.key, name): curve for name, curve in curves.items() if len(curve)})
        self._unread = len(unread)
        return found

    def _zoomed(self, _attribute: str, _old: object, _new: object) -> None:
        if self._zoom_timer is None:
            self._zoom_timer = self._document.add_timeout_callback(self._thin_again, ZOOM_DELAY_MS)

    async def _thin_again(self) -> None:
        """Show all points of a part, or thin again for the whole range."""
        self._zoom_timer = None
        window = self._visible_part()
        if window != self._window:
            self._window = window
            await self._show_again()

    def _visible_part(self) -> Window | None:
        """Return the visible iterations; None if all are visible, or if it is not yet known."""
        start, end = self._shared.x_range.start, self._shared.x_range.end
        drawn = [line.source.data["x"] for chart in self._charts for line in chart.lines]
        if not drawn or not all(isinstance(limit, int | float) and math.isfinite(limit) for limit in (start, end)):
            return None
        covers_all = start <= min(x[0] for x in drawn) and end >= max(x[-1] for x in drawn)
        return None if covers_all else (start, end)
