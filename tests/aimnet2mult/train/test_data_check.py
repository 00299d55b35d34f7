"""Bad structures stop a run before it begins, or are left out and listed."""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.errors import DataError
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.tiny_runs import points, train_tiny, write_data
from telemetry import read_header


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Return a file of 40 structures, two of which are bad."""
    path = write_data(tmp_path / "bad.h5", 40, 5)
    with h5py.File(path, "a") as file:
        grid = np.eye(3) * 1.5 + np.arange(40)[:, None, None] * 0.01
        file["003/coord"][:] = grid
        file["003/coord"][7, 2] = file["003/coord"][7, 1]
        file["003/charge"] = np.where(np.arange(40) == 31, np.nan, 0)
    return path


def start(folder: Path, data: Path, *overrides: str) -> Path:
    return train_tiny(folder, f"data.fidelity_datasets.0={data}", "run_name=bad", *overrides)


def test_bad_structures_end_the_run_before_it_is_opened(tmp_path: Path, bad: Path) -> None:
    with pytest.raises(DataError) as error:
        start(tmp_path, bad)
    head, *lines = str(error.value).splitlines()
    assert head.startswith("the data have 2 problems")
    assert "row 7: atoms 1 and 2 are 0 Å apart" in lines[0]
    assert "row 31: charge is nan" in lines[1]
    assert not (tmp_path / "runs").exists()


def test_bad_validation_structures_end_the_run_too(tmp_path: Path, bad: Path) -> None:
    with pytest.raises(DataError, match="the data have 2 problems"):
        train_tiny(tmp_path, f"data.val_fidelity_datasets.0={bad}")


def test_skipped_structures_are_listed_counted_and_not_trained(
    tmp_path: Path, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, bad, "data.on_bad_structure=skip")
    said = capsys.readouterr()
    assert "warning: bad structures left out: 2; skipped-structures.csv in the run folder lists them" in said.err
    assert "28 training structures, 10 validation structures" in said.out + said.err
    with (run / "skipped-structures.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "group", "row", "reason"],
            [str(bad), "003", "7", "atoms closer than 0.3 Å"],
            [str(bad), "003", "31", "invalid charge"],
        ]
    header = read_header(run)
    assert header.params["skipped_structures"] == 2
    assert header.params["data"]["on_bad_structure"] == "skip"
    assert all(np.isfinite([values["loss"]]) for values in points(run).values())


def test_a_resume_leaves_out_the_same_structures(tmp_path: Path, bad: Path) -> None:
    run = start(tmp_path, bad, "data.on_bad_structure=skip")
    assert train(Request(overrides=["trainer.epochs=5"], resume=str(run))) == 0
    assert read_header(run).params["skipped_structures"] == 2
    assert max(points(run)) > max(points(run, "train_epoch")) - 10


def test_an_earlier_run_with_structures_that_are_now_bad_can_be_resumed(
    tmp_path: Path, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(bad, "a") as file:
        del file["003/charge"]
    run = start(tmp_path, bad, "data.min_distance=0")
    settings = (run / "train.yaml").read_text()
    for key in ("min_distance", "on_bad_structure", "keys", "units"):
        lines = settings.splitlines(keepends=True)
        first = next(i for i, line in enumerate(lines) if line.startswith(f"  {key}:"))
        end = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith("   "))
        settings = "".join(lines[:first] + lines[end:])
    (run / "train.yaml").write_text(settings)
    assert train(Request(overrides=["trainer.epochs=5"], resume=str(run))) == 0
    assert "warning: " in (err := capsys.readouterr().err)
    assert "row 7: atoms 1 and 2 are 0 Å apart" in err


def test_settings_of_files_are_recorded_and_used(tmp_path: Path) -> None:
    path = write_data(tmp_path / "h.h5", 16, 0)
    with h5py.File(path, "a") as file:
        energy = file["003/energy"][:]
        file["003/E"] = energy / 27.211386245988
        del file["003/energy"]
    given = ["data.keys.energy=E", "data.units.energy=hartree"]
    run = train_tiny(tmp_path, f"data.fidelity_datasets.0={path}", *given)
    recorded: dict[str, Any] = read_header(run).params["data"]
    assert recorded["keys"] == {"energy": "E"}
    assert recorded["units"] == {"energy": "hartree", "forces": "eV/Å", "coord": "Å"}
    (tmp_path / "eV").mkdir()
    plain = train_tiny(tmp_path / "eV")
    assert points(run)[12]["loss"] == pytest.approx(points(plain)[12]["loss"], rel=1e-5)
