"""Runs on data that are read from the cache are bit-identical to runs with the data in memory."""

import io
import os
import re
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli as aimnet2mult
from aimnet2mult.config.schema import load
from aimnet2mult.data.checks import check_files
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.data_progress import progress
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.tiny_runs import points, train_tiny
from telemetry.cli import main
from telemetry.reading.find_run import run_folders

STREAMS = ("train", "train_epoch", "val")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a compressed file of structures of three to five atoms, some of them without energies."""
    rng = np.random.default_rng(3)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for atoms, rows in ((3, 30), (4, 9), (5, 20)):
            arrays = {
                "coord": rng.normal(scale=0.1, size=(rows, atoms, 3)) + np.arange(atoms)[:, None] * 1.3,
                "numbers": rng.choice([1, 6, 8], size=(rows, atoms)),
                "energy": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
                "charges": rng.normal(size=(rows, atoms)),
            }
            for key, array in arrays.items():
                file.create_dataset(
                    f"{atoms:03}/{key}", data=array, chunks=(4, *array.shape[1:]), compression="gzip", shuffle=True
                )
    return path


def start(folder: Path, data: Path, *overrides: str) -> Path:
    folder.mkdir(exist_ok=True)
    return train_tiny(folder, f"data.fidelity_datasets.0={data}", *overrides)


def resume(run: Path, *overrides: str) -> None:
    assert train(Request(overrides=[*overrides], resume=str(run))) == 0


def curves(run: Path) -> dict[str, Any]:
    """Return all values that are no durations, by stream and iteration."""
    return {
        stream: {
            step: {name: value for name, value in values.items() if name.startswith(("loss", "grad", "E_", "q_"))}
            for step, values in points(run, stream).items()
        }
        for stream in STREAMS
    }


def caches(runs: Path) -> list[Path]:
    return sorted(path for path in (runs / "data-cache").iterdir() if not path.name.startswith("."))


@pytest.fixture
def expected(tmp_path: Path, data: Path) -> dict[str, Any]:
    """Return the curves of a run with the data in memory, which has no cache."""
    run = start(tmp_path / "memory", data)
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    return curves(run)


def test_a_run_on_cached_data_is_bit_identical(
    tmp_path: Path, data: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "cached", data, "data.in_memory_gb=0")
    assert curves(run) == expected
    (cache,) = caches(run.parent)
    error = capsys.readouterr().err
    assert f"building the data cache of {data}: " in error
    assert f" kB in {cache}\n" in error
    # The second run uses it, and so does the evaluation of either.
    before = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    again = start(tmp_path / "cached", data, "data.in_memory_gb=0", "run_name=again")
    assert curves(again) == expected
    assert "data cache" not in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == before


def test_a_run_without_a_cache_is_bit_identical(tmp_path: Path, data: Path, expected: dict[str, Any]) -> None:
    run = start(tmp_path / "direct", data, "data.in_memory_gb=0", "data.cache=off")
    assert curves(run) == expected
    assert not (run.parent / "data-cache").exists()


def test_workers_read_the_cache(tmp_path: Path, data: Path, expected: dict[str, Any]) -> None:
    workers = ["data.loaders.train.num_workers=2", "data.loaders.val.num_workers=1"]
    assert curves(start(tmp_path / "cached", data, "data.in_memory_gb=0", *workers)) == expected


def test_a_run_resumes_with_and_without_the_cache(tmp_path: Path, data: Path) -> None:
    whole = start(tmp_path / "whole", data, "trainer.epochs=6")
    run = start(tmp_path / "parts", data, "trainer.epochs=2", "data.in_memory_gb=0")
    (cache,) = caches(run.parent)
    resume(run, "trainer.epochs=3", "data.cache=off")
    shutil.rmtree(cache)
    resume(run, "trainer.epochs=4", "data.in_memory_gb=1")
    assert caches(run.parent) == []
    resume(run, "trainer.epochs=6", "data.in_memory_gb=0", f"data.cache={tmp_path / 'elsewhere'}")
    assert points(run) == points(whole)
    assert [path.name.partition("-")[0] for path in (tmp_path / "elsewhere").glob("[!.]*")] == ["data"]


def test_a_resume_with_dropped_labels_uses_the_same_cache(tmp_path: Path, data: Path) -> None:
    labels = ["data.y=[energy, charges, dipole]", "data.on_missing_label=drop", "data.in_memory_gb=0"]
    run = start(tmp_path / "cached", data, *labels, "trainer.epochs=1")
    (cache,) = caches(run.parent)
    resume(run, "trainer.epochs=2")
    assert caches(run.parent) == [cache]


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: os.truncate(cache / "003.npy", 300),
        lambda cache: (cache / "004.npy").unlink(),
        lambda cache: flip(cache / "005.npy", 20),
        lambda cache: flip(cache / "content.npz", 100),
        lambda cache: os.truncate(cache / "content.npz", 100),
        lambda cache: flip(cache / "cache.json", 40),
        lambda cache: os.truncate(cache / "cache.json", 0),
        lambda cache: (cache / "cache.json").unlink(),
    ],
    ids=["truncated", "missing", "header", "content", "short content", "manifest", "empty manifest", "no manifest"],
)
def test_a_damaged_cache_is_built_again(
    tmp_path: Path, data: Path, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1")
    (cache,) = caches(first.parent)
    damage(cache)
    capsys.readouterr()
    again = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1", "run_name=again")
    assert f"building the data cache of {data}: " in capsys.readouterr().err
    assert curves(again) == curves(first)
    assert caches(first.parent) == [cache]


def test_a_damaged_record_ends_the_run_and_is_named(tmp_path: Path, data: Path) -> None:
    first = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1")
    (cache,) = caches(first.parent)
    flip(cache / "003.npy", -100)
    with pytest.raises(Exception, match=r"003\.npy cannot be read: the record of row \d+ is damaged; remove "):
        start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1", "run_name=again")


def test_a_read_only_cache_is_used(tmp_path: Path, data: Path, expected: dict[str, Any]) -> None:
    first = start(tmp_path / "owner", data, "data.in_memory_gb=0", "trainer.epochs=1")
    shared = first.parent / "data-cache"
    # A newer time, so that the state of the file would have to be recorded.
    os.utime(data, ns=(time.time_ns(), time.time_ns()))
    (cache,) = caches(first.parent)
    manifest = (cache / "cache.json").read_bytes()
    for folder in (cache, shared):
        folder.chmod(0o500)
    try:
        run = start(tmp_path / "user", data, "data.in_memory_gb=0", f"data.cache={shared}")
    finally:
        for folder in (shared, cache):
            folder.chmod(0o700)
    assert curves(run) == expected
    assert os.geteuid() == 0 or (cache / "cache.json").read_bytes() == manifest


def test_an_evaluation_uses_the_cache_of_the_run_but_builds_none(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "cached", data, "data.in_memory_gb=0")
    (cache,) = caches(run.parent)
    figures = []
    for remove in (False, True):
        if remove:
            shutil.rmtree(cache)
        capsys.readouterr()
        result = CliRunner().invoke(aimnet2mult, ["evaluate", str(run), "--split", "all", "--json"])
        assert result.exit_code == 0, result.output
        figures.append(result.stdout)
    assert figures[0] == figures[1]
    assert caches(run.parent) == []


def test_the_checks_of_an_evaluation_come_from_the_cache(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1")
    # Whoever reads the data would fail.
    monkeypatch.setattr("aimnet2mult.data.layout.read_rows", None)
    monkeypatch.setattr("aimnet2mult.data.file_scan.read_rows", None)
    result = CliRunner().invoke(aimnet2mult, ["evaluate", str(run), "--json"])
    assert result.exit_code == 0, result.output


def test_check_data_verifies_the_caches_of_a_file(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1")
    (cache,) = caches(run.parent)
    monkeypatch.chdir(tmp_path / "cached")
    words = ["check-data", str(data), "data.y=[energy, charges]"]
    result = CliRunner().invoke(aimnet2mult, words)
    name = Path("runs/data-cache") / cache.name
    assert f"  cache                 10.7 kB in {name}, intact\n" in re.sub(r"\d+\.?\d* kB", "10.7 kB", result.output)
    flip(cache / "003.npy", -100)
    result = CliRunner().invoke(aimnet2mult, words)
    assert f" kB in {name}, damaged; remove it: rm -r {name}\n" in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.cache=false", "data.cache is 'false': expected auto, off or a folder"),
        ("data.cache=none", "data.cache is 'none': expected auto, off or a folder"),
        ("data.stage=off", "data.stage is 'off': expected a folder, or null"),
        (
            "data.stage=$TMPDIR",
            r"/\$TMPDIR': expected a folder, or null; in a file, \${oc.env:TMPDIR} stands for \$TMPDIR",
        ),
        (f"data.cache={__file__}", f"data.cache is {__file__}, which is a file: expected auto, off or a folder"),
    ],
)
def test_values_that_are_no_folders_are_reported(data: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([], [f"data.fidelity_datasets.0={data}", setting])


def test_off_is_text_in_a_file_and_paths_are_relative_to_it(tmp_path: Path, data: Path) -> None:
    (tmp_path / "off.yaml").write_text(f"data: {{fidelity_datasets: {{0: {data}}}, cache: off, stage: local}}\n")
    config = load([tmp_path / "off.yaml"], [])
    assert (config.data.cache, config.data.stage) == ("off", str(tmp_path / "local"))


def test_a_log_has_a_line_of_progress_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 10))
    with progress(Path("data.h5"), clock=lambda: next(times)) as show:
        for done in range(1000, 8000, 1000):
            show(done, 8000)
    assert capsys.readouterr().err.splitlines() == [
        "data.h5: 3,000 of 8,000 structures (38%), 0:00:50 left",
        "data.h5: 6,000 of 8,000 structures (75%), 0:00:20 left",
    ]


class Terminal(io.StringIO):
    """A terminal that keeps what is printed."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_the_progress_below_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(Path("runs/data.h5"), delay=0) as show:
        assert terminal.getvalue() == ""
        for done in (10, 20, 59):
            show(done, 59)
    bars = [line for line in re.split("[\r\n]+", terminal.getvalue()) if line.strip()]
    assert bars
    assert all(re.fullmatch(r"data\.h5 \|.{10}\| [0-9.]+/59\.0 structures, \S+ left *", line) for line in bars)


def test_small_files_have_no_bar(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    check_files([data], labels=(), progress=progress)
    assert terminal.getvalue() == ""


def test_checks_without_a_cache_show_their_progress(data: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_files([data], labels=(), progress=lambda _: nullcontext(lambda *numbers: seen.append(numbers)))
    assert seen[-1] == (59, 59)
    assert seen == sorted(seen)


def test_the_cache_is_no_run(tmp_path: Path, data: Path) -> None:
    run = start(tmp_path / "cached", data, "data.in_memory_gb=0", "trainer.epochs=1")
    result = CliRunner().invoke(main, ["list", str(run.parent)])
    assert result.exit_code == 0
    assert "data-cache" not in result.output
    assert [folder.name for folder in run_folders(run.parent)] == [run.name]


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)
