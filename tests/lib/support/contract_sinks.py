"""A sink that fulfills the contract, and sinks that each violate it in one way."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from telemetry import Metric, RunRecord, Status
from telemetry.records import kind_of
from telemetry.sink_api import (
    Blob,
    Histogram,
    Media,
    Opened,
    Record,
    Resumed,
    RunUpdate,
    Scalars,
    SinkRejected,
    SinkUnavailable,
    backend_errors,
    hookimpl,
    read_blob,
)
from telemetry.testing import MediaItem, Point, SinkContract

Line = dict[str, Any]


class LinesSink:
    """A sink that fulfills the contract by writing one line of JSON for each record."""

    @dataclass
    class Options:
        file: str = "lines.jsonl"

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = Path()
        self.metrics: dict[str, Metric] = {}
        self.last_seq = 0

    @hookimpl
    @backend_errors("lines")
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self.path = folder.absolute() / self.options.file
        self.metrics = run.metrics
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self.path, len(whole))
        self.last_seq = max((json.loads(line)["seq"] for line in whole.splitlines()), default=0)
        return self.opened()

    @hookimpl
    @backend_errors("lines")
    def sink_write(self, records: Sequence[Record]) -> int | None:
        self.append([line for record in records if record.seq > self.last_seq for line in self.lines(record)])
        self.last_seq = max([self.last_seq, *(record.seq for record in records)])
        return self.last_seq

    @hookimpl
    def sink_close(self, status: Status) -> None: ...

    def opened(self) -> Opened:
        return Opened(str(self.path), self.last_seq)

    def lines(self, record: Record) -> Iterator[Line]:
        if isinstance(record, Resumed):
            yield {"seq": record.seq, "resumed": record.step}
        if isinstance(record, RunUpdate):
            self.metrics = record.metrics | self.metrics
        if isinstance(record, Scalars):
            points = [[name, value, self.metrics.get(name, Metric()).unit] for name, value in record.items()]
            yield {"seq": record.seq, "time": record.time, "step": record.step, "points": points}

    def append(self, lines: list[Line]) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


class MediaSink(LinesSink):
    """A sink that fulfills the contract, and shows media of all kinds."""

    media: ClassVar[tuple[str, ...]] = ("text", "table", "image", "histogram", "artifact")
    folder = Path()

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self.folder = folder
        return super().sink_open(run, folder)

    def lines(self, record: Record) -> Iterator[Line]:
        if isinstance(record, Media):
            # Contents as texts of JSON.
            yield {"seq": record.seq, "media": [kind_of(record), record.name, record.step, self.content(record)]}
        yield from super().lines(record)

    def content(self, record: Media) -> str:
        if isinstance(record, Histogram):
            return json.dumps([record.edges, record.counts])
        return self.read(record.blob).decode("latin-1")  # type: ignore[attr-defined]

    def read(self, blob: Blob) -> bytes:
        return read_blob(self.folder, blob)


class CutsContents(MediaSink):
    def content(self, record: Media) -> str:
        return super().content(record)[:10]


class TrustsContents(MediaSink):
    def read(self, blob: Blob) -> bytes:
        path = self.folder / "blobs" / blob.file
        return path.read_bytes() if path.exists() else b""


class KeepsSupersededMedia(MediaSink):
    """A sink that removes points at a resume, but not media."""


class ForgetsMedia(MediaSink):
    """A sink that buffers media until the end, but not points."""

    def __init__(self, options: LinesSink.Options) -> None:
        super().__init__(options)
        self.pending: list[Line] = []

    def append(self, lines: list[Line]) -> None:
        self.pending += [line for line in lines if "media" in line]
        super().append([line for line in lines if "media" not in line])

    @hookimpl
    def sink_close(self, status: Status) -> None:
        LinesSink.append(self, self.pending)
        self.pending = []


class Misnames(MediaSink):
    media = ("picture",)


class LosesTheLast(LinesSink):
    def append(self, lines: list[Line]) -> None:
        super().append(lines[:-1])


class SwapsTwo(LinesSink):
    def append(self, lines: list[Line]) -> None:
        super().append(lines[:-2] + lines[:-3:-1])


class RoundsTimes(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        yield from ({**line, "time": line.get("time", 0) // 1000 * 1000} for line in super().lines(record))


class RoundsSteps(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        yield from ({**line, "step": line.get("step", 0) % 2**32} for line in super().lines(record))


class ForgetsUnits(LinesSink):
    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        opened = super().sink_open(run, folder)
        self.metrics = dict.fromkeys(run.metrics, Metric())
        return opened


class IgnoresUpdates(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        if not isinstance(record, RunUpdate):
            yield from super().lines(record)


class SwallowsNaN(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        for line in super().lines(record):
            yield {**line, "points": [p for p in line["points"] if p[1] == p[1]]} if "points" in line else line


class CleansNames(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        for line in super().lines(record):
            points = [[re.sub(r"[^\w/.]", "_", name), *rest] for name, *rest in line.get("points", ())]
            yield {**line, "points": points}


class KnowsScalarsOnly(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        if not isinstance(record, Scalars | Resumed):
            raise TypeError(type(record).__name__)
        yield from super().lines(record)


class Samples(LinesSink):
    def append(self, lines: list[Line]) -> None:
        # Like backends that downsample long curves.
        super().append(lines[::2] if 5000 < self.last_seq < 10**9 else lines)


class IsGlobal(LinesSink):
    path_of_all: Path

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        opened = super().sink_open(run, folder)
        IsGlobal.path_of_all = self.path
        return opened

    def append(self, lines: list[Line]) -> None:
        self.path = self.path_of_all
        super().append(lines)


class KnowsRunsByName(LinesSink):
    """A sink that takes runs with the same name for one run."""

    paths: ClassVar[dict[str, Path]] = {}

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        return super().sink_open(run, self.paths.setdefault(run.run_id, folder))


class NamesNoPlace(LinesSink):
    def opened(self) -> Opened:
        return Opened("lines", self.last_seq)


class StaysWhereItStarted(LinesSink):
    def opened(self) -> Opened:
        return Opened(os.path.relpath(self.path), self.last_seq)


class NeedsTheMainThread(LinesSink):
    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        return super().sink_open(run, folder)


class ClosesBadly(LinesSink):
    @hookimpl
    def sink_close(self, status: Status) -> None:
        self.append([{"seq": self.last_seq, "time": 0, "step": 0, "points": [["run/closed", 1.0, "1"]]}])


class EndsForGood(LinesSink):
    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        if (folder / "failed").exists():
            msg = "this run has failed"
            raise SinkRejected(msg)
        return super().sink_open(run, folder)

    @hookimpl
    def sink_close(self, status: Status) -> None:
        if status == "failed":
            self.path.with_name("failed").touch()


class DeletesFailedRuns(LinesSink):
    @hookimpl
    def sink_close(self, status: Status) -> None:
        if status == "failed":
            self.path.unlink(missing_ok=True)


class CannotTell(LinesSink):
    def opened(self) -> Opened:
        return Opened(str(self.path), None)


class Doubles(LinesSink):
    """A sink that reports the stored records, but writes them again."""

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        self.last_seq = 0
        return super().sink_write(records)


class CannotTellAndDoubles(Doubles):
    def opened(self) -> Opened:
        return Opened(str(self.path), None)


class SaysTooMuch(LinesSink):
    """A sink that reports one record too many, like a sink with its own cursor in a file might."""

    def opened(self) -> Opened:
        return Opened(str(self.path), self.last_seq + 1 if self.last_seq else 0)


class NeverDurable(LinesSink):
    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> None:
        super().sink_write(records)


class Buffers(LinesSink):
    """A sink that confirms records that are still in memory."""

    def __init__(self, options: LinesSink.Options) -> None:
        super().__init__(options)
        self.pending: list[Line] = []

    def append(self, lines: list[Line]) -> None:
        self.pending += lines

    @hookimpl
    def sink_close(self, status: Status) -> None:
        super().append(self.pending)
        self.pending = []


class KeepsTheTorn(LinesSink):
    """A sink that does not check for an incomplete line left by a failed call."""

    @hookimpl
    @backend_errors("lines")
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self.path, self.metrics = folder.absolute() / self.options.file, run.metrics
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                self.last_seq = max(self.last_seq, json.loads(line)["seq"])
            except ValueError:
                continue
        return self.opened()


class IgnoresResumes(LinesSink):
    def lines(self, record: Record) -> Iterator[Line]:
        if not isinstance(record, Resumed):
            yield from super().lines(record)


class RaisesItsOwn(LinesSink):
    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        self.append([line for record in records if record.seq > self.last_seq for line in self.lines(record)])
        self.last_seq = max([self.last_seq, *(record.seq for record in records)])
        return self.last_seq


class GivesUp(LinesSink):
    """A sink that treats a full disk as a permanent error."""

    def append(self, lines: list[Line]) -> None:
        try:
            super().append(lines)
        except OSError as error:
            raise SinkRejected(str(error)) from error


class Swallows(LinesSink):
    """A sink that passes over a failing write, and claims its records."""

    claims_at_once = True

    @hookimpl
    @backend_errors("lines")
    def sink_write(self, records: Sequence[Record]) -> int | None:
        before = self.last_seq
        try:
            return super().sink_write(records)
        except OSError:
            with suppress(SinkUnavailable):
                self.sink_open(self.run, self.path.parent)  # removes a fragment
            self.last_seq = before
            return records[-1].seq if self.claims_at_once else None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self.run = run
        return super().sink_open(run, folder)


class ClaimsLater(Swallows):
    """A sink that passes over a failing write, and claims its records with those of the next one."""

    claims_at_once = False


class SwallowsLater(LinesSink):
    """Reports the errors of its first two calls only."""

    calls = 0

    def append(self, lines: list[Line]) -> None:
        self.calls += 1
        try:
            super().append(lines)
        except OSError:
            if self.calls <= 2:
                raise


class ReportsAndSwallows(LinesSink):
    """A sink that raises in the first of several failing calls only."""

    failed_before: ClassVar[set[str]] = set()

    def append(self, lines: list[Line]) -> None:
        try:
            super().append(lines)
        except OSError:
            if str(self.path) not in self.failed_before:
                self.failed_before.add(str(self.path))
                raise


class TakesAnything(LinesSink):
    @dataclass
    class Options(LinesSink.Options):
        more: Any = None


class ImportsWhenMade(LinesSink):
    def __init__(self, options: LinesSink.Options) -> None:
        import click  # noqa: F401 - represents an SDK

        super().__init__(options)


class NeedsMore(LinesSink):
    """A sink that requires a module it does not use."""

    requires = ("click",)


class LetsImportErrorsPass(LinesSink):
    requires = ("click",)

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        import click  # noqa: F401 - represents an SDK

        return super().sink_open(run, folder)


class ReturnsNothing(LinesSink):
    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> None:  # type: ignore[override]
        super().sink_open(run, folder)


class Misspelt(LinesSink):
    @hookimpl
    def sink_wriet(self) -> None: ...


class CountsInTexts(LinesSink):
    def opened(self) -> Opened:
        opened = super().opened()
        return Opened(opened.destination, str(opened.last_seq))  # type: ignore[arg-type]  # the violation


class ReturnsItsRecords(LinesSink):
    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> Any:
        super().sink_write(records)
        return records


class Contract(SinkContract):
    """The contract for the sink named by the environment variable CONTRACT_SINK."""

    def make_sink(self, folder: Path) -> object:
        kind = getattr(sys.modules[__name__], os.environ["CONTRACT_SINK"])
        return kind(kind.Options())

    def read_back(self, run: RunRecord, folder: Path) -> Iterable[Point]:
        out: list[Point] = []
        path = folder / LinesSink.Options.file
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
            if not text.endswith("\n"):
                break
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if "resumed" in line:
                out = [point for point in out if point.step <= line["resumed"]]
            out += [
                Point(name, line["step"], value, line["time"], unit) for name, value, unit in line.get("points", ())
            ]
        return out

    def read_back_media(self, run: RunRecord, folder: Path) -> Iterable[MediaItem]:
        out: list[MediaItem] = []
        for text in (folder / LinesSink.Options.file).read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if "resumed" in line and os.environ["CONTRACT_SINK"] != "KeepsSupersededMedia":
                out = [item for item in out if item.step <= line["resumed"]]
            if "media" in line:
                out.append(_item(*line["media"]))
        return out

    def outages(self, folder: Path) -> list[AbstractContextManager[None]]:
        return [a_folder_in_place_of(folder / LinesSink.Options.file)]


def _item(kind: str, name: str, step: int, content: str) -> MediaItem:
    data: Any = content.encode("latin-1")
    if kind == "text":
        data = data.decode()
    elif kind in {"table", "histogram"} and content.endswith(("}", "]")):
        decoded = json.loads(data)
        parts = decoded.values() if isinstance(decoded, dict) else decoded
        data = tuple(tuple(tuple(row) if isinstance(row, list) else row for row in part) for part in parts)
    return MediaItem(kind, name, step, data)


@contextmanager
def a_folder_in_place_of(path: Path) -> Iterator[None]:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        aside.rename(path)
