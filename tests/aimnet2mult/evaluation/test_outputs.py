"""The files of an evaluation: results, structures with the largest errors, plots."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from PIL import Image

from aimnet2mult.data.conversion.writer import OutputFile
from aimnet2mult.errors import ConfigError
from aimnet2mult.evaluation.folder import new_folder
from aimnet2mult.evaluation.gathering import GatheredBatch
from aimnet2mult.evaluation.points import PointSample
from aimnet2mult.evaluation.results import Result
from aimnet2mult.evaluation.xyz import make_atoms, write_xyz
from aimnet2mult.quantities import LABELS
from support.sample_runs import TrainedRun, read_groups
from telemetry.errors import PackageNotInstalled

Evaluate = Callable[..., Result]


@pytest.fixture(scope="module")
def output(evaluated: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("outputs") / "new" / "out"
    return folder, evaluated(worst=3, output=folder)


def test_the_folder_contains_results_structures_and_plots(output: tuple[Path, Result]) -> None:
    folder, result = output
    worst = [f"worst-{name}.xyz" for name in ("charges", "energy", "forces", "spin_charges")]
    assert sorted(path.name for path in folder.iterdir()) == ["errors.png", "parity.png", "results.json", *worst]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert content["metrics"]["E_rmse"] == result.metrics["E_rmse"]
    assert content["worst"]["F"][0]["row"] == result.worst["F"][0].row


def test_the_worst_structures_are_read_by_ase_with_labels_and_predictions(
    trained: TrainedRun, output: tuple[Path, Result]
) -> None:
    folder, result = output
    for label, name in (("E", "energy"), ("F", "forces")):
        frames = ase.io.read(folder / f"worst-{name}.xyz", index=":", format="extxyz")
        assert len(frames) == 3
        for atoms, worst in zip(frames, result.worst[label], strict=True):
            arrays = read_groups(Path(worst.file))[worst.group]
            assert atoms.numbers.tolist() == arrays["numbers"][worst.row].tolist()
            assert atoms.positions == pytest.approx(arrays["coord"][worst.row], abs=1e-6)
            assert atoms.get_potential_energy() == pytest.approx(arrays["energy"][worst.row], abs=1e-5)
            assert (atoms.info["row"], atoms.info["frame"]) == (worst.row, worst.frame)
            assert atoms.info["error"] == worst.error
            if name == "energy":
                error = atoms.info["predicted_energy"] - atoms.get_potential_energy()
                assert abs(error) * 23.060547830619 == pytest.approx(worst.error, rel=1e-3)
            else:
                error = np.abs(atoms.arrays["predicted_forces"] - atoms.get_forces()).max()
                assert error * 23.060547830619 == pytest.approx(worst.error, rel=1e-3)


def test_the_plots_have_a_panel_for_each_label(output: tuple[Path, Result]) -> None:
    for name in ("parity.png", "errors.png"):
        with Image.open(output[0] / name) as image:
            assert min(image.size) > 1000
            assert len(image.convert("RGB").getcolors(2**24)) > 100


def test_nothing_is_overwritten(evaluated: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="already exists; remove it or choose another folder with -o"):
        evaluated(output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_with_the_folder_that_was_asked_for(
    evaluated: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: OutputFile) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(OutputFile, "check", no_space)
    with pytest.raises(ConfigError, match=f"^cannot write {tmp_path / 'out'}: No space left on device$"):
        evaluated(output=tmp_path / "out", predictions=True, plots=False)
    assert list(tmp_path.iterdir()) == []


def test_plots_need_matplotlib(evaluated: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PackageNotInstalled, match=r"--no-plots.*pip install 'aimnet2mult\[plot\]'"):
        evaluated(output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_worst_structures_need_ase(evaluated: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(PackageNotInstalled, match=r"--worst 0.*pip install 'aimnet2mult\[convert\]'"):
        evaluated(output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_plots_show_a_uniform_sample_of_a_bounded_number_of_values() -> None:
    sample = PointSample([LABELS["energy"]], 2, limit=100)
    for first in range(0, 10_000, 500):
        values = np.arange(first, first + 500, dtype=np.float64)
        arrays = {"energy": values, "numbers": np.ones((500, 1)), "fidelity": np.zeros(500, np.int64)}
        sample.receive(GatheredBatch(arrays=arrays, predictions={"energy": values + 0.5}))
    true, pred = sample.points(LABELS["energy"], 0)
    assert len(true) == 100
    assert np.array_equal(pred, true + 0.5)
    assert abs(true.mean() - 5000) < 1000
    assert sample.count(LABELS["energy"]) == 10_000
    assert not sample.points(LABELS["energy"], 1).size


def test_padding_and_unusual_names_in_xyz(tmp_path: Path) -> None:
    atoms = make_atoms(
        np.array([8, 1, 0]),
        np.zeros((3, 3)),
        per_atom={"charges": np.array([0.1, np.nan, 0]), "forces": np.ones((3, 3))},
        values={"energy": np.array(-1.5), "dipole": np.array([1.0, 2.0, 3.0]), "other": np.array(np.nan)},
        info={"file": 'a "b" c.h5', "frame": None},
    )
    write_xyz(tmp_path / "a.xyz", [atoms])
    atoms = ase.io.read(tmp_path / "a.xyz", format="extxyz")
    assert atoms.symbols.get_chemical_formula() == "HO"
    assert atoms.info == {"file": 'a "b" c.h5'}
    assert atoms.get_potential_energy() == -1.5
    assert atoms.get_dipole_moment().tolist() == [1, 2, 3]
    assert atoms.get_forces().tolist() == [[1, 1, 1]] * 2
    assert "charges" not in atoms.arrays
