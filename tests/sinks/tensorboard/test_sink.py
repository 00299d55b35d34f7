"""The curves of the TensorBoard sink: written, read back, and intact after faults and kills."""

import errno
import math
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_file_loader, plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_ndarray

from sinks.tensorboard import event_files as event_file_module
from sinks.tensorboard.sink import TensorBoardSink
from support.tensorboard_contract import replace_os
from support.tensorboard_kit import STARTED, Point, curve, event_files, make_run, open_sink, resumed, scalars, steps
from telemetry import Metric, SettingError, Settings, open_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.plugins.registry import select
from telemetry.sink_api import Closed, Record, SinkRejected, SinkUnavailable


@pytest.fixture
def tb(tmp_path: Path) -> Path:
    """Return the sink's default folder."""
    return tmp_path / "tensorboard"


@pytest.fixture
def clock_at_5(monkeypatch) -> None:
    monkeypatch.setattr(event_file_module, "time", SimpleNamespace(time=lambda: 5.0))


class TestCurves:
    def test_points_have_the_iteration_the_value_and_the_original_time(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        assert sink.sink_write([scalars(1, loss=0.5, E_rmse=12.25), scalars(2, loss=0.25, E_rmse=6.5)]) == 2
        assert curve(tb) == [
            Point(200, 0.5, (STARTED + 1001) / 1000),
            Point(400, 0.25, (STARTED + 2002) / 1000),
        ]
        assert [p.value for p in curve(tb, "train/E_rmse")] == [12.25, 6.5]

    def test_each_record_is_one_event_with_its_sequence_number(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(17, loss=0.5, E_rmse=12.25)])
        (path,) = event_files(tb)
        events = [
            e for e in event_file_loader.LegacyEventFileLoader(str(path)).Load() if "seq=" in e.source_metadata.writer
        ]
        assert [e.source_metadata.writer for e in events] == ["aimnet2mult seq=17"]
        assert [(v.tag, v.simple_value) for v in events[0].summary.value] == [
            ("train/loss", 0.5),
            ("train/E_rmse", 12.25),
        ]

    def test_nan_and_infinities_are_kept_and_values_beyond_float32_are_infinite(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        values = [math.nan, math.inf, -math.inf, 1e300]
        sink.sink_write([scalars(i + 1, loss=value) for i, value in enumerate(values)])
        np.testing.assert_array_equal([p.value for p in curve(tb)], [math.nan, math.inf, -math.inf, math.inf])

    def test_streams_at_the_same_iteration_are_separate_curves(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write(
            [scalars(i + 1, 600, stream, loss=i) for i, stream in enumerate(("train", "train_window", "val"))]
        )
        assert [curve(tb, f"{s}/loss")[0][:2] for s in ("train", "train_window", "val")] == [
            (600, 0),
            (600, 1),
            (600, 2),
        ]

    def test_unknown_record_kinds_are_skipped_but_confirmed(self, tmp_path, tb):
        class Strange(Record, tag="strange"):
            text: str

        sink, _ = open_sink(tmp_path)
        records = [Strange(seq=1, time=1, text="!"), scalars(2), Closed(seq=3, time=3, status="finished")]
        assert sink.sink_write(records) == 3
        assert steps(tb) == [400]

    def test_a_record_without_values_counts_as_written(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        empty = scalars(1)
        empty.values.clear()
        assert sink.sink_write([empty]) == 1
        assert open_sink(tmp_path)[1].last_seq == 1

    def test_an_empty_batch_writes_nothing(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        (before,) = [path.stat().st_size for path in event_files(tb)]
        assert sink.sink_write([]) == 1
        assert [path.stat().st_size for path in event_files(tb)] == [before]

    def test_each_curve_is_described_by_its_label_and_unit(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, E_rmse=1.0), scalars(2, E_rmse=2.0)])
        accumulator = EventAccumulator(str(tb))
        accumulator.Reload()
        assert accumulator.SummaryMetadata("train/E_rmse").summary_description == r"RMSE of energy \[kcal/mol\]"


class TestOpening:
    def test_a_link_is_rejected_as_the_default_folder_but_accepted_as_an_option(self, tmp_path):
        run, outside = tmp_path / "run", tmp_path / "outside"
        run.mkdir()
        outside.mkdir()
        (run / "tensorboard").symlink_to(outside)
        with pytest.raises(SinkRejected, match=r"tensorboard is a link to .*Set telemetry\.tensorboard\.dir"):
            open_sink(run)
        assert not list(outside.iterdir())
        sink, _ = open_sink(run, options={"dir": str(run / "tensorboard")})
        sink.sink_write([scalars(1)])
        assert event_files(outside)

    @pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o755, 0o600), (0o750, 0o640)])
    def test_files_are_as_accessible_as_the_run_folder(self, tmp_path, folder, file):
        run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
        run.mkdir()
        run.chmod(folder)
        for options in ({}, {"dir": str(elsewhere)}):
            sink, _ = open_sink(run, options=options)
            sink.sink_write([scalars(1)])
        files = event_files(run / "tensorboard") + event_files(elsewhere)
        assert [path.stat().st_mode & 0o777 for path in files] == [file, file]

    def test_the_default_folder_is_in_the_run_folder(self, tmp_path, tb):
        _, found = open_sink(tmp_path)
        assert (found.destination, found.last_seq) == (str(tb), 0)
        command, link = found.view.splitlines()
        assert command.endswith(f"tensorboard --logdir {tb}")
        # The run's own folder is called "." there.
        assert link == r"http://localhost:6006/?smoothing=0&runFilter=%5Cw#timeseries"

    def test_the_command_that_shows_the_run_is_quoted_for_the_shell(self, tmp_path):
        _, found = open_sink(tmp_path / "it's; a run")
        command, _ = found.view.splitlines()
        assert shlex.split(command)[1:] == ["--logdir", str(tmp_path / "it's; a run" / "tensorboard")]

    @pytest.mark.parametrize("absolute", [True, False])
    def test_the_option_dir_sets_the_folder(self, tmp_path, absolute):
        folder = tmp_path / "elsewhere" / "curves"
        sink, found = open_sink(tmp_path / "run", options={"dir": str(folder) if absolute else "../elsewhere/curves"})
        sink.sink_write([scalars(1)])
        assert found.destination == str(folder)
        assert steps(folder) == [200]
        assert not (tmp_path / "run" / "tensorboard").exists()

    @pytest.mark.parametrize(
        "folder", ["", "  ", "a\0b", "memory://tb", "file:/scratch/tb", "s3://bucket/tb", "~nobody-here/tb"]
    )
    def test_an_invalid_folder_is_rejected_when_the_sink_is_selected(self, folder):
        with pytest.raises(SettingError, match=r"telemetry\.tensorboard\.dir"):
            select(["tensorboard"], {"tensorboard": {"dir": folder}})

    def test_unknown_and_mistyped_options_are_rejected_by_name(self):
        with pytest.raises(SettingError, match=r"'logdir'.*available: dir"):
            select(["tensorboard"], {"tensorboard": {"logdir": "x"}})
        with pytest.raises(SettingError, match=r"telemetry\.tensorboard.*dir"):
            select(["tensorboard"], {"tensorboard": {"dir": 3}})

    def test_written_records_are_found_again(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1), scalars(2)])
        sink.sink_write([scalars(10**9 + 5)])
        assert open_sink(tmp_path)[1].last_seq == 10**9 + 5

    def test_other_files_in_the_folder_are_ignored(self, tmp_path, tb):
        other = EventFileWriter(str(tb))
        other.close()
        (tb / "events.out.tfevents.1.empty").touch()
        (tb / "events.out.tfevents.2.garbage").write_bytes(b"\0" * 64)
        (tb / "events.out.tfevents.3.folder").mkdir()
        with (tb / "events.out.tfevents.4.records").open("wb") as file:
            RecordWriter(file).write(b"\xff not an event")
        for name in ("a note.txt", "notes.txt"):  # one sorts before the event files, one after them
            (tb / name).write_text("tfevents")
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 0
        sink.sink_write([scalars(1)])
        assert open_sink(tmp_path)[1].last_seq == 1

    def test_a_folder_with_curves_of_another_run_is_rejected(self, tmp_path):
        folder = tmp_path / "shared"
        sink, _ = open_sink(tmp_path / "a", make_run("water"), {"dir": str(folder)})
        sink.sink_write([scalars(1)])
        with pytest.raises(
            SinkRejected, match=r"curves of run 'water'.*those of run 'ice'.*telemetry\.tensorboard\.dir"
        ):
            open_sink(tmp_path / "b", make_run("ice"), {"dir": str(folder)})
        assert steps(folder) == [200]

    def test_an_earlier_run_of_the_same_name_is_a_different_run(self, tmp_path):
        open_sink(tmp_path, make_run(started=STARTED))
        with pytest.raises(SinkRejected, match="an earlier run that was also called 'water'"):
            open_sink(tmp_path, make_run(started=STARTED + 1))

    def test_a_later_attempt_is_the_same_run(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path, make_run())
        sink.sink_write([scalars(1)])
        sink, found = open_sink(tmp_path, make_run(attempt=2, time=STARTED + 10**6, pid=7, host="elsewhere"))
        assert found.last_seq == 1
        sink.sink_write([scalars(10**9 + 2, 400)])
        assert steps(tb) == [200, 400]

    def test_construction_imports_neither_tensorboard_nor_numpy_and_use_imports_no_framework(self, tmp_path):
        # If TensorFlow is installed, importing it takes seconds.
        (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')")
        script = f"""
import pathlib, sys
sys.path.insert(0, {str(tmp_path)!r})
from sinks.tensorboard.sink import TensorBoardSink
sink = TensorBoardSink(TensorBoardSink.Options())
heavy = {{"tensorboard", "numpy", "google", "torch", "tensorflow"}}
loaded = lambda: heavy & {{m.partition(".")[0] for m in sys.modules}}
assert not loaded(), loaded()
from telemetry import RunRecord, Scalars
run = RunRecord(seq=0, time=1, schema=1, run_id="r", name="r", attempt=1, every=1, started=1)
sink.sink_open(run, pathlib.Path({str(tmp_path / "run")!r}))
sink.sink_write([Scalars(seq=1, time=1, stream="train", step=1, values={{"loss": 1.0}})])
sink.sink_close("finished")
assert not loaded() & {{"torch", "tensorflow"}}, loaded()
"""
        subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)

    def test_a_failed_import_of_tensorboard_is_not_retried(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
        with pytest.raises(SinkRejected, match="tensorboard cannot be imported"):
            open_sink(tmp_path)


class TestKills:
    def test_a_batch_delivered_again_after_a_kill_appears_once(self, tmp_path, tb):
        batch = [scalars(1), scalars(2), scalars(3)]
        open_sink(tmp_path)[0].sink_write(batch)
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 3
        assert sink.sink_write([*batch, scalars(4)]) == 4
        assert steps(tb) == [200, 400, 600, 800]

    def test_after_kills_all_confirmed_records_are_present_and_each_appears_once(self, tmp_path, tb):
        script = f"""
import itertools, pathlib, sys
from support.tensorboard_contract import replace_os
from support.tensorboard_kit import open_sink, scalars
sink, found = open_sink(pathlib.Path({str(tmp_path)!r}))
for first in itertools.count(found.last_seq + 1, 7):
    print(sink.sink_write([scalars(first + i) for i in range(7)]), flush=True)
"""
        for _ in range(2):
            with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
                confirmed = [int(process.stdout.readline()) for _ in range(20)][-1]
                process.send_signal(signal.SIGKILL)
            assert open_sink(tmp_path)[1].last_seq >= confirmed
        last = open_sink(tmp_path)[1].last_seq
        assert steps(tb) == [200 * (i + 1) for i in range(last)]

    def test_a_truncated_file_loses_only_the_last_event_and_last_seq_shows_it(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1), scalars(2)])
        (path,) = event_files(tb)
        whole = path.stat().st_size
        sink.sink_write([scalars(3)])
        data = path.read_bytes()
        for cut in range(whole, len(data)):
            path.write_bytes(data[:cut])
            assert open_sink(tmp_path)[1].last_seq == 2, f"cut to {cut} bytes of {len(data)}"
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(3), scalars(4)])
        assert steps(tb) == [200, 400, 600, 800]

    def test_damage_to_any_byte_of_the_last_event_is_detected(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        (path,) = event_files(tb)
        whole = path.stat().st_size
        sink.sink_write([scalars(2)])
        data = path.read_bytes()
        for position in range(whole, len(data)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            assert open_sink(tmp_path)[1].last_seq == 1, f"byte {position} of {len(data)}"
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(2)])
        assert steps(tb) == [200, 400]

    def test_a_frame_longer_than_the_file_ends_the_file(self, tmp_path, tb):
        tb.mkdir()
        length = (1 << 62).to_bytes(8, "little")
        crc = masked_crc32c(length).to_bytes(4, "little")
        (tb / "events.out.tfevents.1.hostile").write_bytes(length + crc + b"x" * 100)
        assert open_sink(tmp_path)[1].last_seq == 0

    def test_a_file_truncated_in_its_header_is_ignored(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        (path,) = event_files(tb)
        path.write_bytes(path.read_bytes()[:20])
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert steps(tb) == [200, 400]

    def test_a_running_viewer_reads_later_files_even_if_the_clock_was_set_back(self, tmp_path, tb, request):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        viewer = EventAccumulator(str(tb), size_guidance={"scalars": 0})
        viewer.Reload()
        request.getfixturevalue("clock_at_5")
        for seq in range(2, 13):
            open_sink(tmp_path)[0].sink_write([scalars(seq)])
        viewer.Reload()
        assert [e.step for e in viewer.Scalars("train/loss")] == [200 * (i + 1) for i in range(12)]


class TestRewinds:
    def test_a_resume_from_an_earlier_iteration_leaves_one_curve(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(i, i, loss=i) for i in (1, 2, 3)])
        sink, _ = open_sink(tmp_path, make_run(attempt=2))
        sink.sink_write([resumed(10**9 + 1, step=1)])
        sink.sink_write([scalars(10**9 + i, i, loss=10 * i) for i in (2, 3, 4)])
        assert [p[:2] for p in curve(tb)] == [(1, 1), (2, 20), (3, 30), (4, 40)]
        assert server_curve(tb) == [(1, 1), (2, 20), (3, 30), (4, 40)]
        assert open_sink(tmp_path)[1].last_seq == 10**9 + 4

    def test_a_rewind_applies_to_all_streams_and_can_be_repeated(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, 1), scalars(2, 2, "val"), scalars(3, 3), resumed(4, 2), scalars(5, 3, "val")])
        sink.sink_write([resumed(6, 0), scalars(7, 1, loss=0.25)])
        assert [p[:2] for p in curve(tb)] == [(1, 0.25)]
        assert steps(tb, "val/loss") == []
        assert server_curve(tb) == [(1, 0.25)]

    def test_a_rewind_just_before_a_kill_is_not_repeated(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, 1), scalars(2, 2), resumed(3, 1)])
        sink, found = open_sink(tmp_path, make_run(attempt=2))
        assert found.last_seq == 3
        sink.sink_write([scalars(4, 2)])
        sink.sink_write([resumed(3, 1)])
        assert steps(tb) == [1, 2]


def server_curve(folder: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    """Return the points shown by the server's own loader, which detects restarts differently from EventAccumulator."""
    accumulator = plugin_event_accumulator.EventAccumulator(str(folder), tensor_size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(e.step, make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors(tag)]


class FaultyOs:
    """The module ``os``, whose next calls raise the errors in ``faults``."""

    def __init__(self) -> None:
        self.faults: dict[str, list[OSError]] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not self.faults.get(name):
            return real
        fault = self.faults[name].pop(0)

        def fail(*args: Any) -> None:
            if name == "close":
                # The descriptor is closed even if close fails.
                real(*args)
            raise fault

        return fail


@pytest.fixture
def disk(monkeypatch) -> FaultyOs:
    faulty = FaultyOs()
    replace_os(monkeypatch, faulty)
    return faulty


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Limit files to ``size`` bytes: a write beyond that is partial, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFaults:
    @pytest.mark.parametrize("call", ["open", "write", "fsync", "close"])
    @pytest.mark.parametrize("new_instance", [True, False])
    def test_after_a_disk_error_nothing_is_lost_or_duplicated(self, tmp_path, disk, call, new_instance):
        number = errno.EIO if call in {"fsync", "close"} else errno.ENOSPC
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        disk.faults[call] = [OSError(number, os.strerror(number))]
        with pytest.raises(SinkUnavailable, match=os.strerror(number)):
            sink.sink_write([scalars(2), scalars(3)])
        if new_instance:
            sink, _ = open_sink(tmp_path)
        assert sink.sink_write([scalars(2), scalars(3)]) == 3
        assert sink.sink_write([scalars(4)]) == 4
        assert steps(tmp_path / "tensorboard") == [200, 400, 600, 800]

    @pytest.mark.parametrize("new_instance", [True, False])
    def test_a_batch_truncated_at_any_byte_by_a_full_disk_is_completed(self, tmp_path, new_instance):
        for kept in range(0, 260, 13):
            folder = tmp_path / str(kept)
            sink, _ = open_sink(folder)
            sink.sink_write([scalars(1)])
            (path,) = event_files(folder / "tensorboard")
            batch = [scalars(i) for i in (2, 3, 4, 5)]
            with full_at(path.stat().st_size + kept), pytest.raises(SinkUnavailable, match="File too large"):
                sink.sink_write(batch)
            if new_instance:
                sink, found = open_sink(folder)
                assert 1 <= found.last_seq < 5
            assert sink.sink_write([*batch, scalars(6)]) == 6
            assert steps(folder / "tensorboard") == [200, 400, 600, 800, 1000, 1200]

    def test_retries_on_a_full_disk_leave_no_files(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        for _ in range(3):
            with full_at(100), pytest.raises(SinkUnavailable):
                sink.sink_write([scalars(1)])
        assert len(event_files(tb)) == 1
        sink.sink_write([scalars(1)])
        assert steps(tb) == [200]

    def test_opening_on_a_full_disk_leaves_no_file(self, tmp_path, tb):
        with full_at(100), pytest.raises(SinkUnavailable, match="File too large"):
            open_sink(tmp_path)
        assert event_files(tb) == []
        assert open_sink(tmp_path)[1].last_seq == 0

    def test_a_file_in_place_of_the_folder_is_a_temporary_error(self, tmp_path, tb):
        tb.write_text("in the way")
        with pytest.raises(SinkUnavailable, match="tensorboard: FileExistsError"):
            open_sink(tmp_path)

    def test_a_removed_folder_is_detected_and_filled_again(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        shutil.rmtree(tb)
        with pytest.raises(SinkUnavailable, match="No such file"):
            sink.sink_write([scalars(2)])
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert steps(tb) == [200, 400]

    def test_a_removed_file_is_detected_and_written_again(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        event_files(tb)[0].unlink()
        with pytest.raises(SinkUnavailable, match="No such file"):
            sink.sink_write([scalars(2)])
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert steps(tb) == [200, 400]

    def test_a_file_of_another_writer_with_the_same_name_is_unchanged(self, tmp_path, tb, clock_at_5):
        open_sink(tmp_path)[0].sink_write([scalars(1)])
        (first,) = event_files(tb)
        sink, _ = open_sink(tmp_path)
        other = tb / first.name.replace("0000000005", "0000000006")
        other.write_text("mine")
        with pytest.raises(SinkUnavailable, match="File exists"):
            sink.sink_write([scalars(2)])
        assert other.read_text() == "mine"
        sink.sink_write([scalars(2)])
        assert steps(tb) == [200, 400]

    def test_the_data_and_name_of_a_new_file_are_synced_before_they_are_confirmed(self, tmp_path, tb, monkeypatch):
        synced = []
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink()), real(fd)))
        sink, _ = open_sink(tmp_path)
        (path,) = event_files(tb)
        assert synced == [path, tb]
        synced.clear()
        sink.sink_write([scalars(1)])
        (train,) = event_files(tb / "train")
        # A record in the run's own folder is present in both; the layout follows, because there is a new curve.
        assert synced == [train, tb / "train", path, path]
        synced.clear()
        sink.sink_write([scalars(2)])
        assert synced == [train, path]

    def test_a_folder_that_cannot_be_listed_is_not_mistaken_for_an_empty_one(self, tmp_path, disk):
        open_sink(tmp_path)[0].sink_write([scalars(1)])
        disk.faults["listdir"] = [PermissionError(errno.EACCES, "Permission denied")]
        with pytest.raises(SinkUnavailable, match="Permission denied"):
            open_sink(tmp_path)


class TestClosing:
    def test_closing_again_changes_nothing_even_on_a_new_instance(self, tmp_path, tb):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        sink.sink_close("finished")
        size = [path.stat().st_size for path in event_files(tb)]
        sink.sink_close("finished")
        open_sink(tmp_path)[0].sink_close("finished")
        assert [path.stat().st_size for path in event_files(tb)] == size

    def test_a_run_without_a_point_can_be_closed(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_close("failed")
        assert open_sink(tmp_path)[1].last_seq == 0
        accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
        accumulator.Reload()
        assert [(e.step, e.wall_time) for e in accumulator.Tensors("run/status")] == [(0, STARTED / 1000)]

    def test_closing_can_be_retried_after_a_disk_error(self, tmp_path, disk):
        sink, _ = open_sink(tmp_path)
        disk.faults["fsync"] = [OSError(errno.EIO, "Input/output error")]
        with pytest.raises(SinkUnavailable, match="Input/output error"):
            sink.sink_close("finished")
        sink.sink_close("finished")


class TestThroughTelemetry:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(every=1, delivery="thread", poll=0.02, linger=1.0)

    @pytest.fixture
    def run_folder(self, tmp_path, settings) -> Path:
        """Return the folder of a run of 20 iterations, delivered while it was recorded."""
        folder = tmp_path / "run"
        metrics = {"train/loss": Metric(), "train/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
        with open_run(folder, metrics=metrics, settings=settings) as bus:
            for step in range(1, 21):
                bus.publish("train", step, {"loss": 1 / step, "E_rmse": 1.0})
        return folder

    def test_a_run_is_delivered_in_its_units(self, run_folder):
        assert steps(run_folder / "tensorboard") == list(range(1, 21))
        assert {p.value for p in curve(run_folder / "tensorboard", "train/E_rmse")} == {np.float32(23.060547830619)}

    def test_delivery_to_a_new_folder_shows_the_same_curves_at_the_same_times(self, run_folder, settings):
        (sink,) = select(["tensorboard"], {"tensorboard": {"dir": "replayed"}})
        delivery = Delivery(run_folder, sink, settings, follow=False)
        delivery.lease.acquire()
        assert delivery.run() is DeliveryOutcome.COMPLETE
        for tag in ("train/loss", "train/E_rmse"):
            assert curve(run_folder / "replayed", tag) == curve(run_folder / "tensorboard", tag)

    def test_a_second_delivery_to_the_same_folder_changes_nothing(self, run_folder, settings):
        def content() -> list[tuple[str, bytes]]:
            return [(p.name, p.read_bytes()) for p in event_files(run_folder / "tensorboard")]

        before = content()
        (sink,) = select(["tensorboard"], {})
        delivery = Delivery(run_folder, sink, settings, follow=False)
        delivery.lease.acquire()
        assert delivery.run() is DeliveryOutcome.COMPLETE
        assert content() == before

    def test_records_lost_from_a_truncated_file_are_delivered_again(self, run_folder, settings):
        (path,) = event_files(run_folder / "tensorboard")
        path.write_bytes(path.read_bytes()[:-600])
        assert steps(run_folder / "tensorboard") != list(range(1, 21))
        (sink,) = select(["tensorboard"], {})
        delivery = Delivery(run_folder, sink, settings, follow=False)
        delivery.lease.acquire()
        assert delivery.run() is DeliveryOutcome.COMPLETE
        assert steps(run_folder / "tensorboard") == list(range(1, 21))


def test_the_entry_point_refers_to_the_sink():
    (sink,) = select(["tensorboard"], {})
    assert sink.plugin is not None
    assert sink.plugin.cls is TensorBoardSink
    assert sink.plugin.requires == ("tensorboard",)
