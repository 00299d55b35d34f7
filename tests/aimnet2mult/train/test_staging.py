"""Data are copied to a disk of each machine once, and read where they are if that is impossible."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.config.schema import load
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.report import Report
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.train.staging import Staging
from support.data_caches import LABELS, build, write_chunked
from support.plain_runs import PLAIN
from support.rank_jobs import Launcher, torchrun_environments
from support.small_groups import make_group
from support.tiny_runs import points

KEYS = ["coord", "numbers", "energy", "forces"]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Return the report of a compressed file with a cache, and of an uncompressed one."""
    chunked = write_chunked(tmp_path / "chunked.h5")
    plain = tmp_path / "plain.h5"
    with h5py.File(plain, "w") as file:
        for key, array in make_group(3, 12, labels=("energy", "forces"), seed=1).items():
            file[f"003/{key}"] = array
    report = check_files([chunked, plain], labels=LABELS)
    report.caches = {str(path): build(path, tmp_path / "data-cache").folder for path in (chunked, plain)}
    return report


def stage(report: Report, folder: Path, *, local_rank: int = 0) -> Staging:
    config = load(
        [], [f"data.stage={folder}", f"data.fidelity_datasets.0={next(iter(report.caches))}"], check_inputs=False
    )
    staging = Staging(config, report, Communicator(), local_rank=local_rank)
    while staging.is_pending():
        pass
    return staging


def copies(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / f"aimnet2mult-{os.getuid()}").iterdir())


def read(report: Report, staging: Staging) -> list[dict[str, Any]]:
    """Return the arrays of all groups, which must be those of the data files."""
    arrays = []
    for path, content in report.contents.items():
        stores = staging.locations.open_stores(Path(path), content, LABELS, FileFormat())
        with h5py.File(path) as file:
            for store, group in zip(stores, file.values(), strict=True):
                arrays.append(store.read(np.arange(store.rows), KEYS))
                for key, values in arrays[-1].items():
                    np.testing.assert_array_equal(values, group[key][:].astype(values.dtype))
    return arrays


def test_caches_and_plain_files_are_copied_and_read_there(
    tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "local" / "disk"
    staging = stage(report, folder)
    assert copies(folder) == ["chunked", "plain"]
    assert (folder / f"aimnet2mult-{os.getuid()}").stat().st_mode & 0o777 == 0o700
    where = [*staging.locations.caches.values(), *staging.locations.copies.values()]
    assert sum(folder in path.parents for path in where) == 2
    assert len(read(report, staging)) == 5
    assert "copying " in capsys.readouterr().err
    # The records are read from the copy: those of the cache are not right any more.
    for file in (tmp_path / "data-cache").rglob("003.npy"):
        file.write_bytes(bytes(file.stat().st_size))
    assert len(read(report, staging)) == 5


def test_copies_are_used_again(tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "local"
    stage(report, folder)
    before = {path: path.stat() for path in folder.rglob("*")}
    capsys.readouterr()
    other = stage(report, folder, local_rank=1)
    assert read(report, stage(report, folder))
    assert read(report, other)
    assert {path: path.stat().st_mtime_ns for path in before} == {p: s.st_mtime_ns for p, s in before.items()}
    assert capsys.readouterr().err == ""


def test_an_incomplete_copy_is_not_used(tmp_path: Path, report: Report) -> None:
    folder = tmp_path / "local"
    stage(report, folder)
    for file in (*folder.rglob("003.npy"), *folder.rglob("plain*.h5")):
        os.truncate(file, 100)
    assert len(read(report, stage(report, folder))) == 5


def test_a_changed_file_is_copied_again(tmp_path: Path, report: Report) -> None:
    folder = tmp_path / "local"
    stage(report, folder)
    with h5py.File(tmp_path / "plain.h5", "a") as file:
        file["003/energy"][:] = 3
    assert len(read(report, stage(report, folder))) == 5
    assert copies(folder) == ["chunked", "plain", "plain"]


def full(_: object) -> Any:
    return shutil._ntuple_diskusage(10**9, 10**9, 10)


@pytest.mark.parametrize("fault", ["full", "a file", "fails"])
def test_without_space_the_data_are_read_where_they_are(
    tmp_path: Path, report: Report, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "local"
    reason = {"full": "but only 0.01 kB are free", "a file": "Not a directory", "fails": "No space left"}[fault]
    if fault == "full":
        monkeypatch.setattr(shutil, "disk_usage", full)
    elif fault == "a file":
        folder = tmp_path / "plain.h5" / "local"
    else:
        monkeypatch.setattr("aimnet2mult.train.staging.CHUNK", Failing())
    staging = stage(report, folder)
    assert len(read(report, staging)) == 5
    assert folder not in [parent for path in staging.locations.caches.values() for parent in path.parents]
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert f"the data cannot be copied to {folder}/aimnet2mult-" in lines[0]
    assert reason in lines[0]
    assert lines[0].endswith("; they are read where they are")
    assert not list(folder.rglob("*.tmp")) if folder.exists() else True


def test_copies_in_a_folder_of_somebody_else_are_not_used(
    tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"aimnet2mult-{os.getuid()}"
    stage(report, tmp_path / "elsewhere")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / name).symlink_to(tmp_path / "elsewhere" / name)
    staging = stage(report, tmp_path / "local")
    assert staging.locations.copies == {}
    assert {*staging.locations.caches.values()} == {*report.caches.values()}
    assert "the data cannot be copied to " in capsys.readouterr().err


def test_unfinished_copies_of_killed_processes_are_removed(tmp_path: Path, report: Report) -> None:
    folder = tmp_path / "local" / f"aimnet2mult-{os.getuid()}"
    for name in (".old.0.tmp", ".new.0.tmp"):
        (folder / name).mkdir(parents=True)
        (folder / name / "003.npy").write_bytes(b"1")
    (folder / ".plain.1.tmp").write_bytes(b"1")
    for path in (folder / ".old.0.tmp/003.npy", folder / ".old.0.tmp", folder / ".new.0.tmp", folder / ".plain.1.tmp"):
        os.utime(path, (0, 0))
    stage(report, tmp_path / "local")
    assert [path.name for path in folder.glob(".*")] == [".new.0.tmp"]


class Failing:
    """A number of bytes that cannot be read."""

    def __index__(self) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher(double=False) as launcher:
        yield launcher


def start(launcher: Launcher, folder: Path, data: Path, *more: str, nodes: Sequence[int] = ()) -> tuple[Path, str]:
    """Train on two ranks with these local ranks, and return the run folder and what rank 0 printed."""
    words = [
        *("train", "--model", str(data.with_suffix(".yaml")), f"data.fidelity_datasets.0={data}"),
        *("run_name=tiny", "data.y=[energy]", "data.val_fraction=0.25", "trainer.epochs=2", "threads=1"),
        *(
            "data.samplers.train.batch_size=8",
            "loss.class=support.tiny_model.SquaredLoss",
            "telemetry.sinks=none",
            *PLAIN,
        ),
        *("optimizer.param_groups.shifts=null", "--allow-package", "support", "device=cpu"),
        *("--telemetry-dir", str(folder / "runs"), *more),
    ]
    environments = torchrun_environments(len(nodes)) if nodes else [{}]
    for environment, local in zip(environments, nodes, strict=False):
        environment["LOCAL_RANK"] = str(local)
    job = launcher.start(folder / "job", words, environments)
    assert set(job.wait()) == {0}, job.stderr(0)
    (run,) = (path for path in (folder / "runs").iterdir() if path.name.startswith("tiny"))
    return run, job.stderr(0)


@pytest.mark.slow
def test_ranks_on_one_and_two_machines_read_the_copies(launcher: Launcher, tmp_path: Path) -> None:
    data = write_chunked(tmp_path / "data.h5")
    data.with_suffix(".yaml").write_text("class: support.tiny_model.TinyCore\n")
    large = ["data.in_memory_gb=0", f"data.cache={tmp_path / 'cache'}"]
    curves = []
    for number, (nodes, more) in enumerate(
        [
            ((0, 1), []),
            ((0, 1), large),
            ((0, 1), [*large, "data.cache=off"]),
            ((0, 1), [*large, f"data.stage={tmp_path / 'one'}"]),
            ((0, 0), [*large, f"data.stage={tmp_path / 'two'}"]),
            ((0, 1), [*large, "data.cache=off", f"data.stage={tmp_path / 'three'}"]),
        ]
    ):
        run, error = start(launcher, tmp_path / str(number), data, *more, nodes=nodes)
        curves.append(points(run))
        assert ("copying" in error) == (number > 2)
    assert curves == curves[:1] * 6
    assert [copies(tmp_path / name) for name in ("one", "two", "three")] == [["data"]] * 3
