"""The TensorBoard sink as the sink contract uses it: made, cut off from its files, and read back."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from sinks.tensorboard import event_files as event_file_module
from sinks.tensorboard.sink import TensorBoardSink
from telemetry.testing import Point
from telemetry.testing.kit import Kit


class TensorBoardKit(Kit):
    """How TensorBoard shows a run."""

    def make_sink(self, folder: Path) -> TensorBoardSink:
        return TensorBoardSink(TensorBoardSink.Options())

    def make_elsewhere(self, folder: Path) -> TensorBoardSink:
        return TensorBoardSink(TensorBoardSink.Options(dir=str(folder / "elsewhere")))

    def outages(self, folder: Path) -> list[AbstractContextManager[None]]:
        numbers = {"open": errno.EROFS, "write": errno.ENOSPC, "fsync": errno.EIO, "listdir": errno.ESTALE}
        return [down(name, number) for name, number in numbers.items()]

    def round_value(self, value: float) -> float:
        """Keep what every viewer reads: 32 bits."""
        with np.errstate(over="ignore"):
            return float(np.float32(value))

    def read_back(self, folder: Path) -> Iterable[Point]:
        accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            unit = shown_unit(accumulator.SummaryMetadata(tag).summary_description)
            for event in accumulator.Scalars(tag):
                yield Point(tag, event.step, event.value, round(event.wall_time * 1000), unit)


@contextlib.contextmanager
def down(name: str, number: int) -> Iterator[None]:
    """Let all calls of one function of the file layer fail."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_file_module, "os", SimpleNamespace(**{**vars(os), name: fail}))
        yield


def shown_unit(description: str) -> str:
    """Give the unit from what stands beside a chart, "label \\[unit\\]" in Markdown."""
    _, bracket, unit = description.rpartition(r" \[")
    return unit.removesuffix(r"\]").replace("\\", "") if bracket else "1"
