"""Corrupted copies of the sample data: a run stops before its first iteration, or ends with a usable model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.errors import DataError
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.file_contents import read_content
from support.plain_runs import PLAIN
from support.tiny_runs import newest_checkpoint, points

GROUP, ROW = "009", 217
Corrupt = Callable[[Path], None]


def two_atoms_at_one_place(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[f"{GROUP}/coord"][ROW, 1] = file[f"{GROUP}/coord"][ROW, 0]


def charge_is_nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        charge = file[f"{GROUP}/charge"][()].astype(np.float32)
        charge[ROW] = np.nan
        del file[f"{GROUP}/charge"]
        file[f"{GROUP}/charge"] = charge


def chunk_is_damaged(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        energy = file[f"{GROUP}/energy"][()]
        del file[f"{GROUP}/energy"]
        chunked = file.create_dataset(f"{GROUP}/energy", data=energy, chunks=energy.shape, compression="gzip")
        file.flush()
        offset = chunked.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(bytes(range(40)))


def energies_are_in_hartree(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for group in file.values():
            group["energy"][...] = group["energy"][()] / 27.211386


def elements_are_text(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        shape = file[f"{GROUP}/numbers"].shape
        del file[f"{GROUP}/numbers"]
        file[f"{GROUP}/numbers"] = np.full(shape, b"C")


def structures_are_repeated(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for array in file[GROUP].values():
            array[:100] = array[100:200]


def force_is_absurd(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[f"{GROUP}/forces"][ROW, 0] = [1e6, 0, 0]


def group_has_no_coordinates(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"{GROUP}/coord"]


def element_has_no_energy(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[f"{GROUP}/numbers"][ROW, 0] = 10
        file[f"{GROUP}/energy"][ROW] = np.nan


STOPS: dict[Corrupt, str] = {
    two_atoms_at_one_place: f"group {GROUP}, row {ROW}: atoms 0 and 1 are 0 Å apart",
    charge_is_nan: f"group {GROUP}, row {ROW}: charge is nan",
    chunk_is_damaged: f"group {GROUP}, rows 0 to 799: 'energy' cannot be read",
    elements_are_text: f"group {GROUP}: 'numbers' contains text",
    group_has_no_coordinates: f"group {GROUP} has no 'coord'",
}
TRAINS: dict[Corrupt, str] = {
    energies_are_in_hartree: "the energies look like Hartree instead of eV; set data.units.energy=Hartree",
    structures_are_repeated: "100 repeated structures, which may be both in training and in validation, such as",
    force_is_absurd: f"group {GROUP}, row {ROW}: force outlier, 1e+06 eV/Å",
    element_has_no_energy: "",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE / "gfn1.h5", tmp_path))


def start(data: Path, *overrides: str) -> Path:
    """Train for 15 iterations, and return the run folder."""
    model = data.with_name("model.yaml")
    model.write_text("class: support.tiny_model.TinyCore\n")
    given = [
        f"data.fidelity_datasets.0={data}",
        "data.y=[energy, forces]",
        "data.samplers.train.batch_size=512",
        "data.samplers.val.batch_size=512",
        "optimizer.param_groups.shifts=null",
        "trainer.epochs=1",
        "telemetry.sinks=none",
        *PLAIN,
        f"telemetry.dir={data.parent / 'runs'}",
    ]
    assert train(Request(overrides=[*given, *overrides], model=model)) == 0
    (run,) = (data.parent / "runs").iterdir()
    return run


def check_usable(run: Path) -> None:
    """Check that losses and weights are finite."""
    losses = [point["loss"] for stream in ("train_epoch", "val") for point in points(run, stream).values()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    weights = read_content(newest_checkpoint(run))["parts"]["model"]
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize("corrupt", STOPS, ids=lambda corrupt: corrupt.__name__)
def test_a_run_stops_before_its_first_iteration(corrupt: Corrupt, data: Path) -> None:
    corrupt(data)
    with pytest.raises(DataError) as error:
        start(data)
    assert f"{data}, {STOPS[corrupt]}" in str(error.value)
    assert not list(data.parent.glob("runs/*"))


@pytest.mark.parametrize("corrupt", TRAINS, ids=lambda corrupt: corrupt.__name__)
def test_a_run_ends_with_a_usable_model(corrupt: Corrupt, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corrupt(data)
    check_usable(start(data))
    assert TRAINS[corrupt] in capfd.readouterr().err


@pytest.mark.parametrize("corrupt", [two_atoms_at_one_place, charge_is_nan], ids=lambda corrupt: corrupt.__name__)
def test_a_run_without_its_bad_structures_ends_with_a_usable_model(corrupt: Corrupt, data: Path) -> None:
    corrupt(data)
    run = start(data, "data.on_bad_structure=skip")
    check_usable(run)
    assert f"{data},{GROUP},{ROW}," in (run / "skipped-structures.csv").read_text()


def test_two_atoms_at_one_place_in_validation_stop_a_run(data: Path) -> None:
    val = Path(shutil.copy(data, data.with_name("val.h5")))
    two_atoms_at_one_place(val)
    with pytest.raises(DataError, match=f"val.h5, group {GROUP}, row {ROW}: atoms 0 and 1 are 0 Å apart"):
        start(data, f"data.val_fidelity_datasets.0={val}")
