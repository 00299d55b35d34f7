"""Texts, tables, images, histograms and artifacts: from the bus to blobs and records."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.telemetry_fakes import eventually
from telemetry import Metric, MetricBus, NullBus, Settings, open_run, read_run
from telemetry.recording.blob_store import BlobsFull, BlobStore
from telemetry.recording.limits import RecordingLimits
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import plan_run
from telemetry.records import Artifact, Histogram, Image, Media, Table, Text
from telemetry.run_folder.blobs import blobs_folder, read_blob
from telemetry.testing import RecordingSink
from telemetry.testing.points import METRICS

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II5x4x", 1, 1)


@pytest.fixture(name="bus")
def _bus(tmp_path: Path) -> Iterator[MetricBus]:
    metrics = {"val/error": Metric(unit="kcal/mol", source_unit="eV/particle")}
    with open_run(tmp_path / "run", metrics=metrics, sinks="none") as bus:
        yield bus


def media_of(bus: MetricBus) -> list[Any]:
    assert bus.flush()
    return list(read_run(bus.folder).media)


def content_of(bus: MetricBus, record: Any) -> bytes:
    return read_blob(bus.folder, record.blob)


def decoded(png: bytes) -> tuple[int, list[list[int]]]:
    """Return the color type and the lines of a PNG file, with zlib only."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, color, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    lines = zlib.decompress(chunks[b"IDAT"])
    step = len(lines) // height
    assert step == 1 + width * {0: 1, 2: 3, 6: 4}[color]
    return color, [list(lines[start + 1 : start + step]) for start in range(0, len(lines), step)]


class TestContents:
    def test_a_text_is_stored_without_credentials(self, bus: MetricBus) -> None:
        bus.text("val/notes", 3, "password=hunter2 é \udc80")
        (record,) = media_of(bus)
        assert (type(record), record.name, record.step, record.blob.suffix) == (Text, "val/notes", 3, ".md")
        text = content_of(bus, record).decode()
        assert "hunter2" not in text
        assert "é ?" in text

    def test_a_table_keeps_numbers_and_the_rest_as_texts(self, bus: MetricBus) -> None:
        rows = [[1, np.float32(0.5), None, True], [float("nan"), 2**70, Path("x"), "token=abcdefgh12345678"]]
        bus.table("val/errors", 3, ["a", "b", "c", "d"], rows)
        (record,) = media_of(bus)
        assert isinstance(record, Table)
        found = json.loads(content_of(bus, record))
        assert found["columns"] == ["a", "b", "c", "d"]
        assert found["rows"][0] == [1, 0.5, None, True]
        assert found["rows"][1][:3] == ["NaN", str(2**70), "x"]
        assert "abcdefgh12345678" not in found["rows"][1][3]

    @pytest.mark.parametrize(
        ("array", "color", "lines"),
        [
            (np.array([[0, 255], [7, 9]], np.uint8), 0, [[0, 255], [7, 9]]),
            (np.array([[0.0, 0.5, 2.0, np.nan]]), 0, [[0, 128, 255, 0]]),
            (np.array([[True, False]]), 0, [[255, 0]]),
            (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 2, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
            (np.arange(8, dtype=np.uint8).reshape(1, 2, 4), 6, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ],
    )
    def test_an_array_becomes_a_png(self, bus: MetricBus, array: Any, color: int, lines: list[list[int]]) -> None:
        bus.image("val/parity", 3, array, "é" * 300)
        (record,) = media_of(bus)
        assert isinstance(record, Image)
        assert (record.height, record.width) == array.shape[:2]
        assert record.caption == "é" * 250
        assert decoded(content_of(bus, record)) == (color, lines)

    def test_a_png_file_is_stored_as_it_is(self, bus: MetricBus) -> None:
        bus.image("val/a", 1, np.zeros((2, 5)))
        (first,) = media_of(bus)
        png = content_of(bus, first)
        bus.image("val/b", 1, png)
        second = media_of(bus)[1]
        assert (second.width, second.height, second.blob) == (5, 2, first.blob)
        assert len(list(blobs_folder(bus.folder).iterdir())) == 1

    def test_a_figure_is_drawn_by_the_caller_unless_a_callable_returns_it(self, bus: MetricBus) -> None:
        drawers: list[str] = []

        class Figure:
            def savefig(self, file: io.BytesIO, **options: str) -> None:
                assert options == {"format": "png"}
                drawers.append(threading.current_thread().name)
                file.write(PNG)

        bus.image("val/a", 1, Figure())
        bus.image("val/a", 2, lambda: Figure())  # noqa: PLW0108 - the class has the method, too
        assert len(media_of(bus)) == 2
        assert drawers == [threading.current_thread().name, "telemetry-media"]

    def test_values_become_a_histogram_in_display_units(self, bus: MetricBus) -> None:
        values = np.array([[0.0, 1.0], [2.0, np.nan], [np.inf, 2.0]])
        bus.histogram("val/error", 3, values)
        values[:] = 7  # the caller may reuse its array
        (record,) = media_of(bus)
        assert isinstance(record, Histogram)
        assert (record.edges[0], record.edges[-1]) == (0.0, pytest.approx(2 * 23.0605478))
        assert (len(record.counts), sum(record.counts), record.counts[-1]) == (64, 4, 2)
        assert bus.counts().dropped == {"not a number": 2}

    def test_a_tensor_is_copied_without_waiting_for_its_device(self, bus: MetricBus) -> None:
        bus.histogram("val/h", 3, Tensor([1.0, 2.0]))
        (record,) = media_of(bus)
        assert sum(record.counts) == 2
        assert Tensor.calls == ["detach", "clone", "detach", "cpu"]

    def test_a_later_change_of_the_content_is_not_recorded(self, bus: MetricBus) -> None:
        row, cell, pixels = np.ones(2), np.ones(()), bytearray(PNG)
        release = threading.Event()
        bus.text("val/text", 1, lambda: str(release.wait(10)))
        bus.table("val/rows", 1, ["a", "b"], [row])
        bus.table("val/cells", 1, ["a"], [[cell]])
        bus.histogram("val/values", 1, [row, row])
        bus.image("val/image", 1, pixels)
        row[:] = cell[...] = 0
        pixels[:] = bytes(len(pixels))
        release.set()
        _, rows, cells, values, image = media_of(bus)
        assert json.loads(content_of(bus, rows))["rows"] == [[1.0, 1.0]]
        assert json.loads(content_of(bus, cells))["rows"] == [[1.0]]
        assert sum(values.edges) / len(values.edges) == 1
        assert content_of(bus, image) == PNG

    def test_given_bins_are_kept(self, bus: MetricBus) -> None:
        bus.histogram("val/h", 3, edges=[0, 1, 3], counts=[2, 0.5])
        (record,) = media_of(bus)
        assert (record.edges, record.counts) == ([0, 1, 3], [2, 0.5])

    def test_an_artifact_is_a_copy_of_the_file(self, bus: MetricBus, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(os.urandom(3_000_000))
        content = path.read_bytes()
        bus.artifact("best/weights", 3, path, type="model")
        (record,) = media_of(bus)
        path.write_bytes(b"overwritten in place")
        assert isinstance(record, Artifact)
        assert (record.file, record.type, record.blob.suffix) == ("model.pt", "model", ".pt")
        assert content_of(bus, record) == content

    def test_callables_are_called_in_a_thread_of_telemetry(self, bus: MetricBus) -> None:
        threads = set()

        def called(content: Any) -> Callable[[], Any]:
            def call() -> Any:
                threads.add(threading.current_thread().name)
                return content

            return call

        bus.text("val/text", 1, called("x"))
        bus.table("val/table", 1, ["a"], called([[1]]))
        bus.image("val/image", 1, called(np.zeros((1, 1))))
        bus.histogram("val/histogram", 1, called([1, 2]))
        assert [type(record) for record in media_of(bus)] == [Text, Table, Image, Histogram]
        assert threads == {"telemetry-media"}

    @pytest.mark.parametrize(
        ("offer", "reason", "message"),
        [
            (lambda bus: bus.text("notes", 1, "x"), "invalid name", "the name 'notes' has no stream"),
            (lambda bus: bus.text(7, 1, "x"), "invalid name", "names are strings"),
            (lambda bus: bus.text("a/b", -1, "x"), "invalid step", "step -1 is not between 0"),
            (lambda bus: bus.text("a/b", 1, lambda: 1 / 0), "invalid content", "division by zero"),
            (lambda bus: bus.table("a/b", 1, ["x"], [[1, 2]]), "invalid content", "row 1 has 2 values for 1 columns"),
            (lambda bus: bus.table("a/b", 1, ["x"], 7), "invalid content", "not iterable"),
            (lambda bus: bus.image("a/b", 1, b"GIF89a"), "invalid content", "not a PNG file"),
            (lambda bus: bus.image("a/b", 1, np.zeros((3, 2, 2))), "invalid content", "has shape (3, 2, 2)"),
            (lambda bus: bus.image("a/b", 1, np.zeros((2, 2), int)), "invalid content", "has the type int64"),
            (lambda bus: bus.histogram("a/b", 1, [np.nan]), "invalid content", "none of the 1 values is finite"),
            (lambda bus: bus.histogram("a/b", 1, np.ones(2, complex)), "invalid content", "expected real numbers"),
            (lambda bus: bus.histogram("a/b", 1), "invalid content", ""),
            (lambda bus: bus.histogram("a/b", 1, edges=[0, 1], counts=[1, 2]), "invalid content", "2 edges and 2"),
            (lambda bus: bus.histogram("a/b", 1, edges=[1, 0], counts=[1]), "invalid content", "not ascending"),
            (lambda bus: bus.histogram("a/b", 1, edges=range(600), counts=range(599)), "invalid content", "513"),
            (lambda bus: bus.artifact("a/b", 1, bus.folder), "invalid content", "is not a file"),
            (lambda bus: bus.artifact("a/b", 1, "no/such"), "invalid content", "no/such is missing"),
        ],
    )
    def test_what_is_invalid_is_counted_and_reported(
        self,
        bus: MetricBus,
        caplog: pytest.LogCaptureFixture,
        offer: Callable[[MetricBus], None],
        reason: str,
        message: str,
    ) -> None:
        offer(bus)
        offer(bus)
        bus.text("val/notes", 1, "valid")
        assert [record.name for record in media_of(bus)] == ["val/notes"]
        counts = bus.counts()
        assert (counts.offered, counts.journaled, counts.lost, counts.dropped) == (3, 1, 2, {reason: 2})
        assert len([text for text in caplog.messages if message in text and text.startswith("dropping ")]) == 1


class TestRecording:
    def test_records_keep_their_order_and_reach_sinks_and_receipt(self, tmp_path: Path) -> None:
        sink, other = RecordingSink(), RecordingSink("other")
        other.media = ("text",)  # type: ignore[misc]
        bus = open_run(tmp_path / "run", sinks=[sink, other])
        for step in range(20):
            bus.text("val/notes", step, f"{step}")
        bus.histogram("val/h", 3, [1, 2])
        receipt = bus.close()
        steps = [record.step for record in sink.records if isinstance(record, Text)]
        assert steps == list(range(20))
        assert receipt is not None
        assert {each.name: each.not_shown for each in receipt.sinks} == {"recording": {}, "other": {"histogram": 1}}
        assert "    not shown by other: 1 histogram" in str(receipt)
        assert (receipt.counts.offered, receipt.journaled, receipt.step) == (21, 21, 19)

    def test_close_waits_for_what_is_pending(self, tmp_path: Path) -> None:
        bus = open_run(tmp_path / "run", sinks="none")
        entered, release = threading.Event(), threading.Event()

        def slow() -> str:
            entered.set()
            release.wait(10)
            return "late"

        bus.text("val/notes", 1, slow)
        assert entered.wait(10)
        closing = threading.Thread(target=bus.close)
        closing.start()
        assert not bus.flush(timeout=0.05)
        release.set()
        closing.join()
        assert [read_blob(bus.folder, each.blob) for each in read_run(bus.folder).media] == [b"late"]  # type: ignore[attr-defined]

    def test_what_exceeds_the_queue_or_the_time_to_close_is_counted(self, tmp_path: Path) -> None:
        plan = plan_run(tmp_path / "run", metrics=METRICS, sinks="none")
        bus = start_run(plan, RecordingLimits(media_capacity=2, media_timeout=0.05))
        entered, release = threading.Event(), threading.Event()
        bus.text("val/notes", 1, lambda: str(entered.set() or release.wait(10)))
        assert entered.wait(10)
        for step in (2, 3, 4):
            bus.text("val/notes", step, "x")
        assert bus.counts().dropped == {"queue full": 1}
        bus.close()
        assert bus.counts().dropped == {"queue full": 1, "run closed": 2}
        release.set()
        bus.text("val/notes", 5, "x")
        assert eventually(lambda: bus.counts().lost == 5)
        assert read_run(bus.folder).media == []

    def test_removed_blobs_are_written_again(self, bus: MetricBus) -> None:
        bus.text("val/notes", 1, "first")
        assert bus.flush()
        shutil.rmtree(blobs_folder(bus.folder))
        bus.text("val/notes", 2, "second")
        bus.text("val/notes", 3, "first")
        assert [content_of(bus, each) for each in media_of(bus)] == [b"first", b"second", b"first"]

    def test_without_a_thread_contents_are_counted_until_there_is_one(
        self, bus: MetricBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            bus.text("val/notes", 1, "first")
        bus.text("val/notes", 2, "second")
        assert [each.step for each in media_of(bus)] == [2]
        assert bus.counts().dropped == {"not written": 1}

    def test_a_full_disk_is_retried_until_the_run_is_closed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        plan = plan_run(tmp_path / "run", metrics=METRICS, sinks="none")
        bus = start_run(plan, RecordingLimits(disk_backoff_initial=0.01, disk_backoff_max=0.01))
        folder = blobs_folder(bus.folder)
        folder.write_text("in the way")
        bus.text("val/notes", 1, "first")
        assert eventually(lambda: any("retrying" in text for text in caplog.messages))
        folder.unlink()
        assert bus.flush()
        assert bus.counts().journaled == 1
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("in the way")
        bus.text("val/notes", 2, "second")
        bus.close()
        assert bus.counts().dropped == {"not written": 1}

    def test_blobs_have_the_permissions_of_the_run(self, tmp_path: Path) -> None:
        for mode, folder_mode, file_mode in (("private", 0o700, 0o600), ("group", 0o750, 0o640)):
            with open_run(tmp_path / mode, sinks="none", settings={"mode": mode}) as bus:
                bus.text("val/notes", 1, "x")
                assert bus.flush()
            (blob,) = blobs_folder(bus.folder).iterdir()
            assert stat.S_IMODE(blob.parent.stat().st_mode) == folder_mode
            assert stat.S_IMODE(blob.stat().st_mode) == file_mode

    def test_the_total_size_includes_earlier_attempts(self, tmp_path: Path) -> None:
        settings = Settings(blobs_mb=1)
        with open_run(tmp_path / "run", sinks="none", settings=settings) as bus:
            bus.text("val/notes", 1, "x" * 600_000)
        with open_run(tmp_path / "run", sinks="none", settings=settings, resume_step=0) as bus:
            bus.text("val/notes", 1, "x" * 600_000)
            bus.text("val/notes", 2, "y" * 600_000)
        assert bus.counts().dropped == {"too many blobs": 1}
        assert [(each.step, each.seq // 10**9) for each in read_run(bus.folder).media] == [(1, 1)]
        assert [each.step for each in read_run(bus.folder, superseded=True).media] == [1, 1]

    def test_a_forked_child_and_other_ranks_record_nothing(self, bus: MetricBus, tmp_path: Path) -> None:
        child = os.fork()
        if not child:
            bus.text("val/notes", 1, "x")
            os._exit(0 if bus.flush() else 1)
        assert os.waitpid(child, 0)[1] == 0
        NullBus().text("val/notes", 1, lambda: pytest.fail("called"))
        assert media_of(bus) == []


class TestBlobStore:
    def test_files_left_half_written_are_removed(self, tmp_path: Path) -> None:
        folder = blobs_folder(tmp_path)
        folder.mkdir()
        left = folder / f".{'a' * 64}.png.0123456789abcdef.tmp"
        left.write_bytes(b"x" * 2_000_000)
        blob = BlobStore(tmp_path, 1).add(b"content", ".md")
        assert [path.name for path in folder.iterdir()] == [blob.file]

    def test_the_number_is_limited_and_equal_contents_are_counted_once(self, tmp_path: Path) -> None:
        store = BlobStore(tmp_path, 1, number=2)
        blobs = {store.add(content, ".md") for content in (b"a", b"b", b"a", b"b")}
        assert len(blobs) == 2
        with pytest.raises(BlobsFull, match="the run has 2 blobs, the maximum"):
            store.add(b"c", ".md")
        assert BlobStore(tmp_path, 1, number=2).add(b"a", ".md") in blobs


class Tensor:
    """The part of a tensor that is used, and the calls."""

    calls: list[str] = []  # noqa: RUF012 - of all instances

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def detach(self) -> Tensor:
        self.calls.append("detach")
        return self

    def clone(self) -> Tensor:
        self.calls.append("clone")
        return self

    def cpu(self) -> Tensor:
        self.calls.append("cpu")
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.values)


def test_all_kinds_are_media() -> None:
    assert all(issubclass(kind, Media) for kind in (Text, Table, Image, Histogram, Artifact))


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBBI", 3, 2, 8, 0, 0, 0, 0, 0)
