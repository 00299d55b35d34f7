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

PROGRESS_DELAY = 0.5
"""Time in seconds after which the page says what it is reading."""
ZOOM_DELAY_MS = 250
"""Delay after the last change of the range until curves are thinned for it."""


class Page:
    """Show runs in a document, and follow them.

    All callbacks run in the event loop of the server; curves are read in a thread.
    """

    def __init__(self, document: Document, store: RunStore, selected: Sequence[str], interval: float) -> None:
        self._document = document
        self._store = store
        self._selected = list(selected)
        self._versions: dict[str, int] = {}
        self._charts: list[Chart] = []
        self._specs: list[ChartSpec] = []
        self._streams: list[str] = []
        self._window: Window | None = None
        self._zoom_timer: object | None = None
        self._shared = Shared()
        for end in ("start", "end"):
            self._shared.x_range.on_change(end, self._zoomed)
        self._layout = Layout(on_select=self._select, on_change=self._redraw_soon)
        document.title = "telemetry view"
        document.add_root(self._layout.root)
        document.add_next_tick_callback(self._redraw)
        document.add_periodic_callback(self._update, round(1000 * interval))

    def _runs(self) -> list[RunEntry]:
        entries = {entry.key: entry for entry in self._store.runs()}
        return [entries[key] for key in self._selected if key in entries]

    def _select(self, keys: list[str]) -> None:
        # Runs keep their colors while others are added.
        self._selected = [key for key in self._selected if key in keys] + [k for k in keys if k not in self._selected]
        self._redraw_soon()

    def _redraw_soon(self) -> None:
        self._document.add_next_tick_callback(self._redraw)

    async def _redraw(self) -> None:
        """Draw the charts anew, after a change of what is shown."""
        runs = self._runs()
        self._specs = chart_specs(runs)
        self._streams = streams(self._specs)
        self._layout.controls.offer(self._streams, headings(self._specs), several=len(runs) > 1)
        view, curves = self._view(runs), await self._curves(runs)
        shown = [spec for spec in self._specs if spec.heading in self._layout.controls.headings]
        self._charts = new_charts(shown, view, curves, self._shared, self._layout.controls.scale)
        self._layout.show_charts(self._charts, self._nothing(runs))
        self._show_runs(runs)

    async def _update(self) -> None:
        """Draw what is new."""
        runs = self._runs()
        versions = {entry.key: self._store.version(entry.key) for entry in self._store.runs()}
        if versions == self._versions:
            return
        self._versions = versions
        curves = await self._curves(runs)
        lines = {(line.run, line.name) for chart in self._charts for line in chart.lines}
        if lines != set(curves) or chart_specs(runs) != self._specs:
            await self._redraw()
            return
        self._show(runs, curves)

    def _show(self, runs: Sequence[RunEntry], curves: Curves) -> None:
        view = self._view(runs)
        for chart in self._charts:
            chart.update(view, curves)
        self._show_runs(runs)

    def _show_runs(self, runs: Sequence[RunEntry]) -> None:
        self._layout.show_runs(self._store.runs(), runs, [entry.key for entry in runs])

    def _nothing(self, runs: Sequence[RunEntry]) -> str:
        """Return why there is no chart."""
        return "No points yet" if runs else "Select a run in the table" if self._store.runs() else "No runs yet"

    def _view(self, runs: Sequence[RunEntry]) -> View:
        controls = self._layout.controls
        return View(
            runs=runs,
            streams=self._streams,
            shown=controls.streams,
            window=self._window,
            smoothing=controls.smoothing,
        )

    async def _curves(self, runs: Sequence[RunEntry]) -> Curves:
        """Read the curves that are shown; only those that have points."""
        controls = self._layout.controls
        found: dict[tuple[str, str], Any] = {}
        started = time.monotonic()
        for number, entry in enumerate(runs, 1):
            if time.monotonic() > started + PROGRESS_DELAY:
                self._layout.controls.progress.text = f"Reading run {number} of {len(runs)} …"
            names = [
                name
                for spec in self._specs
                if spec.heading in controls.headings
                for name in spec.names.get(entry.key, [])
                if stream_of(name) in controls.streams
            ]
            curves = await asyncio.to_thread(self._store.curves, entry.key, names)
            found.update({(entry.key, name): curve for name, curve in curves.items() if len(curve)})
        self._layout.controls.progress.text = ""
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
            runs = self._runs()
            self._show(runs, await self._curves(runs))

    def _visible_part(self) -> Window | None:
        """Return the visible iterations; None if all are visible, or if it is not yet known."""
        start, end = self._shared.x_range.start, self._shared.x_range.end
        drawn = [line.source.data["x"] for chart in self._charts for line in chart.lines]
        if not drawn or not all(isinstance(limit, int | float) and math.isfinite(limit) for limit in (start, end)):
            return None
        covers_all = start <= min(x[0] for x in drawn) and end >= max(x[-1] for x in drawn)
        return None if covers_all else (start, end)
