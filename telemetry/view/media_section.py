"""The section with images, tables, histograms, texts and artifacts below the charts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from bokeh.models import CategoricalSlider, CheckboxButtonGroup, Column, CustomJS, InlineStyleSheet

from telemetry.records import Artifact, Histogram, Image, Media, Table, Text
from telemetry.view.contents import content_html
from telemetry.view.controls import control_row
from telemetry.view.elements import panel
from telemetry.view.run_entry import RunEntry
from telemetry.view.texts import escaped, step_text

KINDS: Mapping[type[Media], str] = {
    Image: "images",
    Table: "tables",
    Histogram: "histograms",
    Text: "texts",
    Artifact: "artifacts",
}
"""What the kinds are called, in the order in which they are shown."""
MAX_ITEMS = 40
"""Number of contents of each kind that are shown."""
_STYLE = """
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 14px; }
.cells + .cells { margin-top: 14px; }
figure { margin: 0; min-width: 0; } figcaption { margin-bottom: 2px; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; }
svg { width: 100%; max-width: 520px; display: block; } rect { fill: #0072b2; } line { stroke: #b8c0c8; }
text { font: 11px Helvetica, Arial, 'Liberation Sans', sans-serif; fill: #4a5560; }
pre, .scrolled { max-height: 320px; overflow: auto; margin: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f7f8f9; padding: 6px 8px; font-size: 12px; }
figure:has(table) { grid-column: 1 / -1; } .scrolled th, .scrolled td { overflow-wrap: normal; }
.number { white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums; }
"""
_TOGGLE = """
for (const [kind, div] of divs) div.visible = kinds.active.some((index) => kinds.labels[index] == kind)
"""


class Item(NamedTuple):
    """A record, and the run that it belongs to."""

    entry: RunEntry
    record: Media

    @property
    def key(self) -> tuple[str, str, Media]:
        """What is shown of it; other attributes of the run change with each point."""
        return self.entry.key, self.entry.label, self.record


class MediaSection:
    """The newest content of each kind and name up to a chosen iteration, at first the newest of all.

    Attributes:
        root: contains everything; invisible if there is nothing to show.

    Args:
        on_step: called after the user has chosen another iteration; None for a report, which offers no choice.
    """

    def __init__(self, on_step: Callable[[], Awaitable[None]] | None = None) -> None:
        self._on_step = on_step
        self._items: list[Item] = []
        self._html: list[str] = []
        self._kinds = CheckboxButtonGroup()
        self._divs = {label: panel("") for label in KINDS.values()}
        for div in self._divs.values():
            div.stylesheets.append(InlineStyleSheet(css=_STYLE))
        toggle = CustomJS(args={"kinds": self._kinds, "divs": list(self._divs.items())}, code=_TOGGLE)
        for attribute in ("labels", "active"):
            self._kinds.js_on_change(attribute, toggle)
        self._slider = CategoricalSlider(categories=[""], value="", title="Iteration", width=420, visible=False)
        self._slider.on_change("value_throttled", self._step_chosen)
        controls = control_row(("Show", self._kinds))
        controls.children.append(self._slider)
        heading = panel("<h2>images, tables, texts</h2>")
        self.root = Column(heading, controls, *self._divs.values(), sizing_mode="stretch_width", visible=False)

    def _step_chosen(self, _attribute: str, _old: object, _new: object) -> None:
        if self._on_step is not None:
            self.root.document.add_next_tick_callback(self._on_step)

    async def show(self, runs: Sequence[RunEntry]) -> None:
        """Show the contents of the runs; those that are not yet shown are read in a thread."""
        step = self._offer_steps(runs)
        items = [] if step is None else newest_items(runs, step)
        if [item.key for item in items] != [item.key for item in self._items]:
            self._apply(items, await asyncio.to_thread(self._read, items), several=len(runs) > 1)

    def show_newest(self, runs: Sequence[RunEntry]) -> None:
        """Show the newest contents of the runs."""
        items = newest_items(runs)
        self._apply(items, self._read(items), several=len(runs) > 1)

    def _offer_steps(self, runs: Sequence[RunEntry]) -> int | None:
        """Offer the iterations with contents, and return the chosen one; the newest stays chosen as others follow."""
        steps = {step_text(step): step for step in sorted({each.step for entry in runs for each in entry.media})}
        labels, slider = list(steps), self._slider
        if labels and labels != slider.categories:
            keeps = slider.value in steps and slider.value != slider.categories[-1]
            slider.update(categories=labels, value=slider.value if keeps else labels[-1])
        slider.visible = len(steps) > 1
        return steps.get(slider.value)

    def _read(self, items: Sequence[Item]) -> list[str]:
        """Return the items as HTML, the first of each kind; what is already shown is not read again."""
        shown = {
            (item.entry.key, item.record.seq): (item, html) for item, html in zip(self._items, self._html, strict=True)
        }
        found, count = [], Counter[type[Media]]()
        for item in items:
            count[type(item.record)] += 1
            before, html = shown.get((item.entry.key, item.record.seq), (None, ""))
            if before is None or before.key != item.key:
                html = content_html(*item) if count[type(item.record)] <= MAX_ITEMS else ""
            found.append(html)
        return found

    def _apply(self, items: list[Item], html: list[str], *, several: bool) -> None:
        self._items, self._html = items, html
        labels = list(dict.fromkeys(KINDS[type(record)] for _, record in items))
        if labels != self._kinds.labels:
            hidden = {label for number, label in enumerate(self._kinds.labels) if number not in self._kinds.active}
            active = [number for number, label in enumerate(labels) if label not in hidden]
            self._kinds.update(labels=labels, active=active)
        for kind, label in KINDS.items():
            of_kind = [(item, text) for item, text in zip(items, html, strict=True) if isinstance(item.record, kind)]
            text = _section(of_kind[:MAX_ITEMS], several=several)
            if len(of_kind) > MAX_ITEMS:
                text += f"<p>The first {MAX_ITEMS} of {len(of_kind):,} {label} are shown</p>"
            if self._divs[label].text != text:
                self._divs[label].text = text
        self.root.visible = bool(items)


def newest_items(runs: Sequence[RunEntry], step: int | None = None) -> list[Item]:
    """Return the newest record of each kind and name, until an iteration if one is given, sorted by kind.

    The records of one name follow each other, in the order of the runs.
    """
    newest: dict[tuple[type[Media], str], dict[str, Item]] = {}
    for entry in runs:
        for record in entry.media:
            if step is None or record.step <= step:
                of_name = newest.setdefault((type(record), record.name), {})
                if entry.key not in of_name or record.step >= of_name[entry.key].record.step:
                    of_name[entry.key] = Item(entry, record)
    kinds = list(KINDS)
    found = sorted(newest.items(), key=lambda each: kinds.index(each[0][0]))
    return [item for _, of_name in found for item in of_name.values()]


def _section(cells: Sequence[tuple[Item, str]], *, several: bool) -> str:
    """Return the contents of one kind; those of several runs are side by side, with a row for each name."""
    rows: dict[str, list[str]] = {}
    for item, html in cells:
        rows.setdefault(item.record.name if several else "", []).append(_cell(*item, html, several=several))
    return "".join(f"<div class='cells'>{''.join(row)}</div>" for row in rows.values())


def _cell(entry: RunEntry, record: Media, content: str, *, several: bool) -> str:
    run = f" · {escaped(entry.label)}" if several else ""
    title = f"<b>{escaped(record.name)}</b>{run} <small>at iteration {step_text(record.step)}</small>"
    return f"<figure><figcaption>{title}</figcaption>{content}</figure>"
