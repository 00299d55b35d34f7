"""A kit for the sink contract on the TensorBoard sink, and faults in its file access."""

from __future__ import annotations

import contextlib
import errno
import html
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator
from tensorboard.util.tensor_util import make_ndarray

from sinks.tensorboard import event_files
from sinks.tensorboard.run_files import folder_name
from sinks.tensorboard.sink import TensorBoardSink
from telemetry import Record
from telemetry.run_folder import atomic_write
from telemetry.sink_api import stream_of
from telemetry.testing import MediaItem, Point
from telemetry.testing.kit import Kit


class TensorBoardKit(Kit):
    """A kit that creates TensorBoard sinks, and reads runs back as TensorBoard displays them."""

    def make_sink(self, folder: Path) -> TensorBoardSink:
        return TensorBoardSink(TensorBoardSink.Options())

    def make_elsewhere(self, folder: Path) -> TensorBoardSink:
        return TensorBoardSink(TensorBoardSink.Options(dir=str(folder / "elsewhere")))

    def outages(self, folder: Path) -> list[AbstractContextManager[None]]:
        numbers = {"open": errno.EROFS, "write": errno.ENOSPC, "fsync": errno.EIO, "listdir": errno.ESTALE}
        return [failing(name, number) for name, number in numbers.items()]

    def round_value(self, value: float) -> float:
        """Round to 32 bits, the precision that every viewer reads."""
        with np.errstate(over="ignore"):
            return float(np.float32(value))

    def read_back(self, folder: Path) -> Iterable[Point]:  # type: ignore[override]  # it may omit arguments
        accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            unit = shown_unit(accumulator.SummaryMetadata(tag).summary_description)
            for event in accumulator.Scalars(tag):
                yield Point(tag, event.step, event.value, round(event.wall_time * 1000), unit)

    def read_back_media(self, folder: Path) -> Iterable[MediaItem]:  # type: ignore[override] # as read_back
        """Read what the server's own loader shows in the folders of the streams."""
        for path in (path for path in (folder / "tensorboard").iterdir() if path.is_dir()):
            accumulator = ServerAccumulator(str(path), tensor_size_guidance=dict.fromkeys(_SHOWN, 0)).Reload()
            for tag in accumulator.Tags()["tensors"]:
                plugin = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
                for event in accumulator.Tensors(tag) if plugin in _SHOWN else ():
                    kind, content = _SHOWN[plugin](make_ndarray(event.tensor_proto))
                    yield MediaItem(kind, tag, event.step, content)

    def shown_media(self, item: MediaItem) -> MediaItem:
        """Return numbers in tables as text."""
        if item.kind != "table":
            return item
        head, rows = item.content
        return item._replace(content=(head, tuple(tuple(map(str, row)) for row in rows)))

    def check_shows(self, folder: Path, records: Iterable[Record], remedy: str) -> None:
        """Check the overlay of the streams, too: it must contain the same points."""
        super().check_shows(folder, records, remedy)
        own = Counter((folder_name(stream_of(p.name)), p.step, str(p.value), p.time) for p in self.read_back(folder))
        assert self._overlay(folder / "tensorboard") == own

    @staticmethod
    def _overlay(folder: Path) -> Counter[tuple[str, int, str, int]]:
        found: Counter[tuple[str, int, str, int]] = Counter()
        for path in (path for path in folder.iterdir() if path.is_dir()):
            accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
            for tag in accumulator.Tags()["scalars"]:
                found.update(
                    (path.name, e.step, str(e.value), round(e.wall_time * 1000)) for e in accumulator.Scalars(tag)
                )
        return found


def _text_or_table(array: Any) -> tuple[str, Any]:
    text = array.item().decode()
    if not text.startswith("| "):
        return "text", text
    cells = [[_unescaped(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    return "table", (tuple(cells[0]), tuple(map(tuple, cells[2:])))


def _unescaped(cell: str) -> str:
    return html.unescape(re.sub(r"\\(.)", r"\1", cell.strip()))


_SHOWN: dict[str, Callable[[Any], tuple[str, Any]]] = {
    "text": _text_or_table,
    "images": lambda array: ("image", array[2]),
    "histograms": lambda array: ("histogram", ((*array[:, 0], array[-1, 1]), tuple(array[:, 2]))),
}
"""Kind and content by plugin."""


def replace_os(patch: pytest.MonkeyPatch, fake: Any) -> None:
    """Replace ``os`` in the modules through which the TensorBoard sink accesses files."""
    patch.setattr(event_files, "os", fake)
    # A copy: the journal and the progress of delivery are not stored by the backend.
    sync_folder = FunctionType(atomic_write.sync_folder.__code__, vars(atomic_write) | {"os": fake})
    patch.setattr(event_files, "sync_folder", sync_folder)


@contextlib.contextmanager
def failing(name: str, number: int) -> Iterator[None]:
    """Make all calls of one function of ``os`` fail with the given error number."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        replace_os(patch, SimpleNamespace(**{**vars(os), name: fail}))
        yield


def shown_unit(description: str) -> str:
    r"""Return the unit in the description of a chart, ``label \[unit\]`` in Markdown."""
    _, bracket, unit = description.rpartition(r" \[")
    return unit.removesuffix(r"\]").replace("\\", "") if bracket else "1"
