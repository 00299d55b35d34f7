"""The controls of the live page: streams, headings, scale, smoothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bokeh.models import CheckboxButtonGroup, Div, InlineStyleSheet, LayoutDOM, RadioButtonGroup, Row

from telemetry.view.chart import Scale
from telemetry.view.style import default_streams, stream_styles

SCALES: tuple[Scale, ...] = ("auto", "log", "linear")
SMOOTHING = (1, 5, 21, 101)
"""Numbers of points that are averaged."""
_CAPTION = ":host { font: 13px Helvetica, Arial, 'Liberation Sans', sans-serif; color: #4a5560; flex: 0 0 auto; }"
_ROW = ":host { flex-wrap: wrap; align-items: center; }"


class Controls:
    """The controls, and what is chosen with them.

    Attributes:
        row: contains all of them.
        progress: says what the page is waiting for.

    Args:
        on_change: called after a change by the user.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change: Callable[[], None] | None = on_change
        self._several: bool | None = None
        self._streams, self._headings, self._scale = CheckboxButtonGroup(), CheckboxButtonGroup(), scale_buttons()
        self._smoothing = RadioButtonGroup(labels=["off", *map(str, SMOOTHING[1:])], active=0)
        for each in (self._streams, self._headings, self._scale, self._smoothing):
            each.on_change("active", self._changed)
        self.progress = caption("")
        self.row = control_row(
            ("Streams", self._streams),
            ("Charts", self._headings),
            ("Scale", self._scale),
            ("Mean of points", self._smoothing),
        )
        self.row.children.append(self.progress)

    def _changed(self, _attribute: str, _old: object, _new: object) -> None:
        if self._on_change is not None:
            self._on_change()

    @property
    def streams(self) -> list[str]:
        """The streams that are shown."""
        return [self._streams.labels[index] for index in sorted(self._streams.active)]

    @property
    def headings(self) -> list[str]:
        """The headings whose charts are shown."""
        return [self._headings.labels[index] for index in sorted(self._headings.active)]

    @property
    def scale(self) -> Scale:
        """The scale of the values."""
        return SCALES[self._scale.active or 0]

    @property
    def smoothing(self) -> int:
        """Number of points that are averaged; 1 for none."""
        return SMOOTHING[self._smoothing.active or 0]

    def offer(self, streams: Sequence[str], headings: Sequence[str], *, several: bool) -> None:
        """Offer these streams and headings; those that were shown remain shown, as long as there are several runs."""
        on_change, self._on_change = self._on_change, None
        known = set(self._streams.labels)
        new = {stream for stream in default_streams(streams, several=several) if stream not in known}
        chosen = set(self.streams) | new if several == self._several else set(default_streams(streams, several=several))
        _offer(self._streams, streams, chosen)
        _offer(self._headings, headings, set(self.headings) or set(headings[:1]))
        self._streams.stylesheets = [] if several else [color_bars(streams)]
        self._several, self._on_change = several, on_change


def scale_buttons() -> RadioButtonGroup:
    """Return the choice of a scale."""
    return RadioButtonGroup(labels=list(SCALES), active=0)


def caption(text: str) -> Div:
    """Return a text of our own in the row of controls."""
    return Div(text=text, stylesheets=[InlineStyleSheet(css=_CAPTION)])


def control_row(*controls: tuple[str, LayoutDOM]) -> Row:
    """Return controls after their captions, wrapped to the width of the page."""
    children: list[LayoutDOM] = []
    for name, control in controls:
        control.styles = {"flex": "0 0 auto", "width": "max-content", "margin-right": "18px"}
        children += [caption(name), control]
    return Row(*children, sizing_mode="stretch_width", spacing=8, stylesheets=[InlineStyleSheet(css=_ROW)])


def color_bars(streams: Sequence[str]) -> InlineStyleSheet:
    """Return a style that shows the color of each stream below its button, as a legend."""
    colors = [style.color for style in stream_styles(streams).values()]
    rules = [f".bk-btn:nth-child({n}) {{ border-bottom: 4px solid {color}; }}" for n, color in enumerate(colors, 1)]
    return InlineStyleSheet(css="\n".join(rules))


def _offer(group: CheckboxButtonGroup, labels: Sequence[str], chosen: set[str]) -> None:
    # Assigned together, so that indices never refer to other labels.
    group.update(labels=list(labels), active=[n for n, label in enumerate(labels) if label in chosen])
