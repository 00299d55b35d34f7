"""The overlay: one folder per stream, in which a quantity has the same tag as in the other streams."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sinks.tensorboard.event_files import EventFiles
from sinks.tensorboard.events import EventBuilder
from sinks.tensorboard.overlay_tags import OverlayTags
from sinks.tensorboard.run_files import folder_name
from support.tensorboard_kit import curves, event_files, make_run, open_sink, resumed, scalars, steps
from telemetry import Alert, Metric
from telemetry.sink_api import SinkRejected

KCAL = Metric(unit="kcal/mol", better="lower")
MAIN = Metric(unit="kcal/mol", better="lower", main=True)


def step_curves(folder: Path, stream: str) -> dict[str, list[int]]:
    return {tag: [step for step, _ in points] for tag, points in curves(folder, stream).items()}


class TestTags:
    def test_main_charts_come_first_then_parts_of_the_data_then_details_and_progress(self):
        metrics = {
            "train/lr": Metric(),
            "train/E_mae": KCAL,
            "val/gfn1/E_rmse": KCAL,
            "val/gfn1/loss": Metric(better="lower"),
            "val/b97/E_rmse": KCAL,
            "val/loss": Metric(better="lower", main=True),
            "val/E_rmse": MAIN,
            "train/E_rmse": MAIN,
        }
        assert dict(OverlayTags(metrics, {})) == {
            "val/loss": "1 overall/1 loss",
            "val/E_rmse": "1 overall/2 E_rmse [kcal/mol]",
            "train/E_rmse": "1 overall/2 E_rmse [kcal/mol]",
            "val/gfn1/E_rmse": "2 gfn1/1 E_rmse [kcal/mol]",
            "val/gfn1/loss": "2 gfn1/2 loss",
            "val/b97/E_rmse": "2 b97/1 E_rmse [kcal/mol]",
            "train/E_mae": "3 details/1 E_mae [kcal/mol]",
            "train/lr": "4 progress/1 lr",
        }

    def test_the_system_has_the_last_section(self):
        tags = OverlayTags({"system/memory": Metric(unit="GiB"), "val/E": MAIN}, {})
        assert dict(tags) == {"val/E": "1 overall/1 E [kcal/mol]", "system/memory": "6 system/1 memory [GiB]"}

    def test_a_quantity_with_two_units_has_two_tags(self):
        tags = OverlayTags({"train/E": MAIN, "val/E": Metric(unit="eV", main=True)}, {})
        assert dict(tags) == {"train/E": "1 overall/1 E [kcal/mol]", "val/E": "1 overall/2 E [eV]"}

    def test_a_part_with_slashes_stays_one_section(self):
        tags = OverlayTags({"val/a/b/E": KCAL, "val/E": MAIN}, {})
        assert tags["val/a/b/E"] == "2 a.b/1 E [kcal/mol]"

    def test_tags_never_change_and_new_metrics_get_new_numbers(self):
        first = OverlayTags({"val/E": MAIN, "val/F": MAIN, "val/lr": Metric()}, {})
        again = OverlayTags({"val/new": MAIN, "train/F": MAIN, "val/F": KCAL, "val/E": MAIN, "val/lr": MAIN}, first)
        assert dict(again) == {
            **first,
            "val/new": "1 overall/3 new [kcal/mol]",
            "train/F": "1 overall/2 F [kcal/mol]",
        }

    def test_undeclared_metrics_come_last(self):
        tags = OverlayTags({"val/E": MAIN}, {})
        assert tags.add_undeclared(["val/E", "train/x", "train/gfn1/y", "val/x"])
        assert not tags.add_undeclared(["train/x"])
        assert dict(tags) == {
            "val/E": "1 overall/1 E [kcal/mol]",
            "train/x": "5 other/1 x",
            "train/gfn1/y": "5 other/2 gfn1/y",
            "val/x": "5 other/1 x",
        }

    @pytest.mark.parametrize("stored", [b"", b"\xff", b"[1]", b'{"train/loss": 3}', b"[" * 100_000])
    def test_a_forged_list_of_tags_is_ignored(self, tmp_path, stored):
        run: Any = make_run()
        builder = EventBuilder(run)
        files = EventFiles(tmp_path / "tensorboard", run, builder)
        files.write_summaries([builder.tensor("telemetry/tags", "aimnet2mult", stored, time=1.0)])
        open_sink(tmp_path)[0].sink_write([scalars(1)])
        assert step_curves(tmp_path, "train") == {"1 overall/1 loss": [200]}

    def test_tags_read_from_a_forged_file_are_no_reason_to_fail(self):
        tags = OverlayTags({"val/E": MAIN}, {"a": "1 overall/x", "b": "1 overall/", "c": "", "d": "1 overall/7"})
        assert tags["val/E"] == "1 overall/8 E [kcal/mol]"


class TestFolders:
    def test_the_streams_of_a_quantity_have_one_tag_in_different_folders(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, loss=1.0, E_rmse=2.0), scalars(2, stream="val", loss=3.0)])
        assert curves(tmp_path, "train") == {
            "1 overall/1 loss": [(200, 1.0)],
            "1 overall/2 E_rmse [kcal/mol]": [(200, 2.0)],
        }
        assert curves(tmp_path, "val") == {"1 overall/1 loss": [(400, 3.0)]}

    def test_a_curve_is_described_by_its_label_and_unit(self, tmp_path):
        open_sink(tmp_path)[0].sink_write([scalars(1, E_rmse=2.0)])
        accumulator = EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
        metadata = accumulator.SummaryMetadata("1 overall/2 E_rmse [kcal/mol]")
        assert metadata.summary_description == r"RMSE of energy \[kcal/mol\]"

    def test_alerts_and_tables_are_only_in_the_folder_of_the_run(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1), Alert(seq=2, time=5, step=200, title="!"), scalars(3, stream="val")])
        sink.sink_close("finished")
        for stream in ("train", "val"):
            tags = EventAccumulator(str(tmp_path / "tensorboard" / stream)).Reload().Tags()
            assert (len(tags["scalars"]), tags["tensors"]) == (1, [])

    def test_the_files_are_as_accessible_as_the_run_folder(self, tmp_path):
        tmp_path.chmod(0o750)
        open_sink(tmp_path)[0].sink_write([scalars(1)])
        (path,) = event_files(tmp_path / "tensorboard" / "train")
        assert path.stat().st_mode & 0o777 == 0o640

    def test_undeclared_metrics_are_shown_and_keep_their_tags(self, tmp_path):
        open_sink(tmp_path)[0].sink_write([scalars(1, x=1.0)])
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(2, y=1.0, x=1.0), scalars(3, stream="new", x=1.0)])
        assert step_curves(tmp_path, "train") == {"5 other/1 x": [200, 400], "5 other/2 y": [400]}
        assert step_curves(tmp_path, "new") == {"5 other/1 x": [600]}

    def test_a_resume_with_other_declarations_continues_the_curves(self, tmp_path):
        metrics = {"train/loss": MAIN, "train/E": MAIN}
        open_sink(tmp_path, make_run(metrics=metrics))[0].sink_write([scalars(1, loss=1.0, E=1.0)])
        metrics = {"train/new": MAIN, "train/E": KCAL, "train/loss": MAIN}
        sink, _ = open_sink(tmp_path, make_run(metrics=metrics, attempt=2))
        sink.sink_write([scalars(2, loss=1.0, E=1.0, new=1.0)])
        assert step_curves(tmp_path, "train") == {
            "1 overall/1 loss [kcal/mol]": [200, 400],
            "1 overall/2 E [kcal/mol]": [200, 400],
            "1 overall/3 new [kcal/mol]": [400],
        }

    @pytest.mark.parametrize(
        "stream", ["..", ".", ".hidden", " ", "a/../../b", "events.out.tfevents.1.x", "x" * 250, "å" * 250, "a\nb\0c"]
    )
    def test_any_stream_has_a_folder_of_its_own_below_that_of_the_run(self, tmp_path, stream):
        for _ in range(2):
            sink, _ = open_sink(tmp_path)
            sink.sink_write([scalars(1, stream=stream), scalars(2, stream="train")])
        assert open_sink(tmp_path)[1].last_seq == 2
        folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
        assert len(folders) == 3
        assert {path.parent for path in folders} == {tmp_path, tmp_path / "tensorboard"}
        assert steps(tmp_path / "tensorboard") == [400]
        assert [len(event_files(path)) for path in folders if path.name != "tensorboard"] == [1, 1]

    def test_names_of_folders_are_distinct(self):
        streams = ["a/b", "a%2Fb", "a_b", "a b", ".", "..", "x" * 250, "x" * 249]
        assert len({folder_name(stream) for stream in streams}) == len(streams)

    def test_a_stream_with_the_name_of_a_file_has_another_folder(self, tmp_path):
        (tmp_path / "tensorboard").mkdir()
        (tmp_path / "tensorboard" / "train").write_text("mine")
        for seq in (1, 2):
            sink, found = open_sink(tmp_path)
            assert found.last_seq == seq - 1
            sink.sink_write([scalars(seq)])
        assert (tmp_path / "tensorboard" / "train").read_text() == "mine"
        (folder,) = [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]
        assert step_curves(tmp_path, folder.name) == {"1 overall/1 loss": [200, 400]}

    def test_a_link_in_place_of_a_folder_is_not_followed(self, tmp_path):
        run, outside = tmp_path / "run", tmp_path / "outside"
        (run / "tensorboard").mkdir(parents=True)
        outside.mkdir()
        (run / "tensorboard" / "train").symlink_to(outside)
        with pytest.raises(SinkRejected, match="train is a link; remove it"):
            open_sink(run)[0].sink_write([scalars(1)])
        assert not list(outside.iterdir())

    def test_a_folder_with_curves_of_another_run_is_rejected(self, tmp_path):
        open_sink(tmp_path / "a", make_run("ice"), {"dir": str(tmp_path / "a" / "train")})
        with pytest.raises(SinkRejected, match=r"curves of run 'ice'"):
            open_sink(tmp_path / "b", make_run("water"), {"dir": str(tmp_path / "a")})


class TestCrashes:
    """Each record is once in the run's own folder and once in that of its stream, whichever of them is behind."""

    BATCH = (scalars(1), scalars(2, stream="val"), scalars(3), scalars(4, stream="val"))

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """Return the folder of the run after the first two records; ``ahead`` has the state after all four."""
        sink, _ = open_sink(tmp_path)
        sink.sink_write(self.BATCH[:2])
        shutil.copytree(tmp_path / "tensorboard", tmp_path / "earlier")
        sink.sink_write(self.BATCH[2:])
        return tmp_path

    def restore(self, folder: Path, pattern: str) -> None:
        """Bring files back to their state after the first two records."""
        for path in (folder / "earlier").glob(pattern):
            shutil.copyfile(path, folder / "tensorboard" / path.relative_to(folder / "earlier"))

    def check_all(self, folder: Path) -> None:
        assert steps(folder / "tensorboard") == [200, 600]
        assert steps(folder / "tensorboard", "val/loss") == [400, 800]
        assert step_curves(folder, "train") == {"1 overall/1 loss": [200, 600]}
        assert step_curves(folder, "val") == {"1 overall/1 loss": [400, 800]}

    @pytest.mark.parametrize(
        ("behind", "last_seq"),
        [("*tfevents*", 2), ("train/*", 1), ("val/*", 2), ("*/*", 1), ("nothing", 4)],
    )
    def test_files_that_are_behind_are_completed(self, folder, behind, last_seq):
        self.restore(folder, behind)
        sink, found = open_sink(folder)
        assert found.last_seq == last_seq
        sink.sink_write([record for record in self.BATCH if record.seq > last_seq])
        self.check_all(folder)

    @pytest.mark.parametrize("removed", ["train", "val"])
    def test_a_removed_folder_is_filled_again(self, folder, removed):
        shutil.rmtree(folder / "tensorboard" / removed)
        sink, found = open_sink(folder)
        assert found.last_seq == 0
        sink.sink_write(self.BATCH)
        self.check_all(folder)
        assert open_sink(folder)[1].last_seq == 4

    @pytest.mark.parametrize("stream", ["train", "val"])
    def test_a_file_cut_at_any_byte_is_completed(self, folder, stream):
        (path,) = event_files(folder / "tensorboard" / stream)
        data = path.read_bytes()
        whole = (folder / "earlier" / stream / path.name).stat().st_size
        for cut in range(whole, len(data), 7):
            path.write_bytes(data[:cut])
            assert open_sink(folder)[1].last_seq == {"train": 1, "val": 2}[stream]
        sink, found = open_sink(folder)
        sink.sink_write([record for record in self.BATCH if record.seq > found.last_seq])
        self.check_all(folder)

    def test_a_resume_rewinds_all_streams(self, folder):
        sink, _ = open_sink(folder, make_run(attempt=2))
        sink.sink_write([resumed(10**9 + 1, step=300), scalars(10**9 + 2, 500)])
        assert step_curves(folder, "train") == {"1 overall/1 loss": [200, 500]}
        assert step_curves(folder, "val") == {"1 overall/1 loss": []}
        assert open_sink(folder)[1].last_seq == 10**9 + 2

    def test_a_resume_lost_from_one_file_is_delivered_again(self, folder):
        rewind = resumed(10**9 + 1, step=500)
        open_sink(folder, make_run(attempt=2))[0].sink_write([rewind])
        _, written_by_attempt_2 = event_files(folder / "tensorboard" / "val")
        written_by_attempt_2.unlink()
        sink, found = open_sink(folder)
        assert found.last_seq == 4
        sink.sink_write([rewind])
        assert step_curves(folder, "val") == {"1 overall/1 loss": [400]}

    def test_points_known_only_to_a_stream_are_rewound(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        (own,) = event_files(tmp_path / "tensorboard")
        before = own.read_bytes()
        sink.sink_write([scalars(2, stream="val")])
        # As after a kill between the two writes; the resume supersedes the record, so it is not delivered again.
        own.write_bytes(before)
        sink, found = open_sink(tmp_path, make_run(attempt=2))
        assert found.last_seq == 1
        sink.sink_write([resumed(10**9 + 1, step=200)])
        assert step_curves(tmp_path, "val") == {"1 overall/1 loss": []}


class TestEarlierVersion:
    """Runs of version 0.1 have no folders for streams."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        run: Any = make_run()
        EventFiles(tmp_path / "tensorboard", run, EventBuilder(run)).write_records([scalars(1), scalars(2)])
        return tmp_path

    def test_they_continue_without_them(self, folder):
        for records in ([scalars(3)], [resumed(10**9 + 1, step=450), scalars(10**9 + 2, 500)]):
            sink, found = open_sink(folder)
            sink.sink_write(records)
        assert found.view.endswith("http://localhost:6006/?smoothing=0#timeseries")
        assert steps(folder / "tensorboard") == [200, 400, 500]
        assert [path for path in (folder / "tensorboard").iterdir() if path.is_dir()] == []

    def test_after_removal_of_the_folder_they_are_delivered_with_the_overlay(self, folder):
        shutil.rmtree(folder / "tensorboard")
        sink, found = open_sink(folder)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert step_curves(folder, "train") == {"1 overall/1 loss": [200, 400]}
