"""A run that starts from loaded weights is checked before its first step: elements, reference energies, energies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from aimnet2mult.config.schema import load
from aimnet2mult.errors import DataError, ModelError
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.plain_runs import PLAIN
from support.published import SPECIES, long_range, random_model, write_aimnet
from support.small_models import definition


def write_molecules(path: Path, energies: Mapping[int, float], elements: tuple[int, ...] = (1, 6, 7, 8)) -> Path:
    """Write 16 structures of four atoms on a line, with energies close to sums of ``energies``."""
    rng = np.random.default_rng(0)
    numbers = rng.choice(elements, size=(16, 4))
    with h5py.File(path, "w") as file:
        group = file.create_group("004")
        group["coord"] = np.arange(4)[:, None] * [1.3, 0, 0] + rng.normal(scale=0.1, size=(16, 4, 3))
        group["numbers"] = numbers
        group["energy"] = np.vectorize(energies.get)(numbers).sum(axis=1) + rng.normal(size=16)
    return path


def options(folder: Path, source: Path, *names: str) -> list[str]:
    """Return the settings of a run on a file for each fidelity."""
    return [
        *(f"data.fidelity_datasets.{i}={folder / f'{name}.h5'}" for i, name in enumerate(names)),
        *(f"data.fidelity_names.{i}={name}" for i, name in enumerate(names)),
        f"load={source}",
        "data.y=[energy]",
        "data.val_fraction=0.25",
        "loss.kwargs.components={energy: {fn: aimnet2mult.train.loss.energy_loss_fn, weight: 1.0}}",
        "run_name=run",
        f"telemetry.dir={folder / 'runs'}",
        "telemetry.sinks=none",
        *PLAIN,
        "trainer.epochs=2",
        "data.samplers.train.batch_size=4",
    ]


def build(folder: Path, source: Path, *names: str, model: Any = None, overrides: tuple[str, ...] = ()) -> Components:
    config = load([], [*options(folder, source, *names), *overrides])
    return build_components(config, model or long_range(), folder, weights=source)


def test_energies_and_reference_energies_of_an_aimnet_file_are_kept(tmp_path: Path) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "wb97m.h5", SPECIES)
    write_molecules(tmp_path / "gfn1.h5", dict.fromkeys(SPECIES, -20.0))
    components = build(tmp_path, source, "wb97m", "gfn1")
    _, compared, kept = components.loaded
    assert compared.startswith(f"energies of 10 structures equal those of {source} within ")
    assert kept.startswith(f"wb97m: reference energies of {source} kept; the energies in the data are ")
    shifts = torch.load(source, weights_only=True)["state_dict"]["outputs.atomic_shift.shifts.weight"]
    assert components.data.saes[0] == {z: float(shifts[z]) for z in SPECIES}
    # Those of a new fidelity are fitted.
    assert components.data.saes[1][6] == pytest.approx(-20, abs=1.5)


def test_reference_energies_are_replaced_on_request_or_by_a_file(tmp_path: Path) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "wb97m.h5", {z: energy - 2 for z, energy in SPECIES.items()})
    (tmp_path / "sae.yaml").write_text(yaml.safe_dump({z: energy - 2 for z, energy in SPECIES.items()}))
    components = build(tmp_path, source, "wb97m", overrides=("load_reference_energies=replace",))
    assert "replaced; the sums of a structure differ by " in components.loaded[2]
    assert components.data.saes[0][6] == pytest.approx(SPECIES[6] - 2, abs=1.5)
    by_file = build(tmp_path, source, "wb97m", overrides=(f"data.sae.energy.files.0={tmp_path / 'sae.yaml'}",))
    shifts = torch.load(source, weights_only=True)["state_dict"]["outputs.atomic_shift.shifts.weight"].flatten()
    with h5py.File(tmp_path / "wb97m.h5") as file:
        difference = np.array([SPECIES.get(z, 0) - 2 * (z > 0) - float(shifts[z]) for z in range(9)])
        expected = np.sqrt(np.mean(difference[file["004/numbers"][:]].sum(axis=1) ** 2))
    assert f"differ by {expected:.4g} eV (RMS)" in by_file.loaded[2]


def test_reference_energies_of_another_method_are_not_kept(tmp_path: Path) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "gfn1.h5", dict.fromkeys(SPECIES, -20.0))
    with pytest.raises(DataError, match=r"energies of gfn1 differ .* they are of another method; set load_reference"):
        build(tmp_path, source, "gfn1")
    assert "replaced" in build(tmp_path, source, "gfn1", overrides=("load_reference_energies=replace",)).loaded[2]


def test_data_with_an_unsupported_element_are_refused_with_its_place(tmp_path: Path) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "wb97m.h5", SPECIES)
    write_molecules(tmp_path / "sulfur.h5", {**SPECIES, 16: -10000.0, 17: -12000.0}, (1, 6, 16, 17))
    with h5py.File(tmp_path / "sulfur.h5", "r+") as file:
        file["004/numbers"][:3] = [6, 1, 1, 1]
        file["004/numbers"][3] = [6, 1, 1, 16]
    message = rf"fidelity sulfur contains S, Cl, first in {tmp_path}/sulfur.h5, group 004, row 3: {source} has no "
    with pytest.raises(DataError, match=message):
        build(tmp_path, source, "wb97m", "sulfur")


def test_a_model_that_predicts_other_energies_than_its_source_is_refused(tmp_path: Path) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "wb97m.h5", SPECIES)
    with pytest.raises(
        ModelError, match=r"predicts -\d+\.\d+ eV for .*wb97m.h5, group 004, row \d+ at wb97m, but .*-\d"
    ):
        build(tmp_path, source, "wb97m", model=definition(channels=1))


def test_incomplete_weights_are_loaded_without_a_comparison(tmp_path: Path) -> None:
    state = random_model(long_range()).state_dict()
    torch.save({name: array for name, array in state.items() if "energy_mlp" not in name}, tmp_path / "w.pt")
    write_molecules(tmp_path / "wb97m.h5", SPECIES)
    summary, compared = build(tmp_path, tmp_path / "w.pt", "wb97m").loaded
    assert "initial values kept for outputs.energy_mlp" in summary
    assert compared == f"energies not compared: {tmp_path / 'w.pt'} does not contain all parameters of the model"


def test_a_run_continues_a_run_as_one_of_two_fidelities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_aimnet(tmp_path)
    write_molecules(tmp_path / "wb97m.h5", SPECIES)
    write_molecules(tmp_path / "gfn1.h5", dict.fromkeys(SPECIES, -20.0))
    # Without a model: that of the file.
    assert train(Request(overrides=options(tmp_path, source, "wb97m"))) == 0
    assert f"model: as defined in {source}" in capsys.readouterr().err
    first = next((tmp_path / "runs").iterdir())
    assert train(Request(overrides=options(tmp_path, first, "gfn1", "wb97m"))) == 0
    printed = capsys.readouterr().err
    assert "gfn1 initialized from wb97m" in printed
    assert "wb97m: reference energies of" in printed
    assert "energies of 10 structures equal those of" in printed
    second = max((tmp_path / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    assert (second / "sae" / "wb97m.yaml").read_text() == (first / "sae" / "wb97m.yaml").read_text()
    # The weights of unsupported elements were never NaN.
    checkpoint = torch.load(next((second / "checkpoints").iterdir()), weights_only=True)[1]
    assert all(array.isfinite().all() for array in checkpoint["parts"]["model"].values())


def test_elements_that_the_source_was_not_trained_on_are_named(tmp_path: Path) -> None:
    write_molecules(tmp_path / "gfn1.h5", SPECIES, (1, 6))
    plain = tmp_path / "plain.pt"
    torch.save(random_model(long_range()).state_dict(), plain)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(long_range(), sort_keys=False))
    train(Request(overrides=options(tmp_path, plain, "gfn1"), model=tmp_path / "model.yaml"))
    run = next((tmp_path / "runs").iterdir())
    write_molecules(tmp_path / "gfn1.h5", SPECIES)
    with pytest.raises(DataError, match="no reference energy for N, O"):
        build(tmp_path, run, "gfn1")
    lines = build(tmp_path, run, "gfn1", overrides=("load_reference_energies=replace",)).loaded
    assert lines[-1] == "gfn1: N, O not in the training data of gfn1; their parameters are initial values"
