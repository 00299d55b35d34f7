"""Every published value of runs of a single process is recomputed in NumPy from the captured predictions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from ignite.engine import Events

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.schema import load
from aimnet2mult.train.components import build_components
from aimnet2mult.train.engine import build_trainer
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.oracle import CAPTURES, Call, read_batches
from support.oracle_runs import CLIP, FIDELITIES, LAST, PLAN, train_config
from support.published_values import (
    ABBREVIATIONS,
    LOSSES,
    Batches,
    Plan,
    Points,
    assemble,
    assert_agree,
    errors,
    expected_points,
    gradient_norm,
    is_finite,
)
from support.tiny_runs import points
from telemetry import read_header

STREAMS = ("train", "train_window", "train_epoch", "val")
PER_ATOM = ("forces", "charges", "spin_charges")
OTHER_UNITS = {"energy": "meV", "forces": "eV/nm"}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run with its batches."""

    folder: Path
    batches: Batches
    plan: Plan

    @property
    def points(self) -> Points:
        """All published points."""
        return {(stream, step): values for stream in STREAMS for step, values in points(self.folder, stream).items()}


@pytest.fixture
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the captures of a test."""
    monkeypatch.setenv(CAPTURES, str(tmp_path / "captures"))
    (tmp_path / "captures").mkdir()
    return tmp_path / "captures"


@pytest.fixture(scope="module", params=list(LOSSES))
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train a small AIMNet2 of two fidelities; the run with a loss without components has other units."""
    folder, loss = tmp_path_factory.mktemp("run"), request.param
    units = OTHER_UNITS if loss == "a class without components" else {}
    plan = replace(PLAN, loss=loss, units={**PLAN.units, **({"E": 1000.0, "F": 10.0} if units else {})})
    config = train_config(folder, data, loss, units=units)
    captures = folder / "captures"
    captures.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CAPTURES, str(captures))
        assert train(Request(configs=[config], model=SAMPLE / "model.yaml")) == 0
    (path,) = (folder / "runs").iterdir()
    return Finished(folder=path, batches=assemble([(0, read_batches(captures))]), plan=plan)


def test_the_run_has_padding_masks_missing_labels_two_fidelities_and_bad_structures(run: Finished) -> None:
    for training in (True, False):
        calls = run.batches.calls(training=training)
        assert any((call.numbers == 0).any() for call in calls)
        assert {fidelity for call in calls for fidelity in call.fidelity} == {0, 1}
        for label in ABBREVIATIONS:
            values = np.concatenate([call.true[label].ravel() for call in calls])
            assert 0.05 < np.isnan(values).mean() < 0.9, label
        for name in ABBREVIATIONS:
            masks = np.concatenate([call.true[f"{name}_mask"].ravel() for call in calls])
            assert 0.05 < masks.mean() < 0.95, name
        assert not all(is_finite(call, row) for call in calls for row in range(len(call.numbers)))
    assert len({len(call.numbers) for call in run.batches.calls(training=False)}) > 1
    norms = [gradient_norm(batch) for batch in run.batches.training.values()]
    assert any(norm > CLIP for norm in norms)
    assert 0 < np.isnan(norms).sum() < LAST
    # Batches without any spin charges.
    assert {"s_rmse" in values for values in points(run.folder, "train").values()} == {True, False}


def test_every_published_value_agrees_with_numpy(run: Finished) -> None:
    published = run.points
    for values in published.values():
        values.pop("it_per_s", None)
    assert_agree(published, expected_points(run.batches, run.plan))


def test_the_speed_is_that_of_the_iterations_since_the_previous_point(run: Finished) -> None:
    times = {step: batch[0].time for step, batch in run.batches.training.items()}
    values = points(run.folder, "train")
    due = [0, *(step for step in values if step % PLAN.every == 0)]
    # The time of validations and checkpoints after these iterations does not count.
    paused, complete = {*points(run.folder, "val"), *points(run.folder, "train_epoch")}, 0
    for before, step in [*pairwise(due), *([(due[-1], LAST)] if LAST % PLAN.every else [])]:
        # Each point lies between the last batch that it covers and the next one.
        shortest = times[step] - times[before + 1]
        longest = times.get(step + 1, np.inf) - times.get(before, -np.inf)
        seconds = (step - before) / values[step]["it_per_s"]
        assert seconds <= longest
        if paused.isdisjoint(range(before, step)):
            assert seconds >= shortest
            complete += 1
    assert complete > 1


def test_the_units_are_declared(run: Finished) -> None:
    energy, forces = OTHER_UNITS.values() if run.plan.units["F"] == 10 else ("kcal/mol", "kcal/mol/Å")
    of = {"E_rmse": energy, "E_mae": energy, "low/E_atom_rmse": f"{energy}/atom", "F_rmse": forces, "E_r2": "1"}
    of |= {"q_rmse": "e", "high/s_mae": "e", "loss": "1", "skipped_structures": "1"}
    metrics = read_header(run.folder).metrics
    assert {name: metrics[f"val/{name}"].unit for name in of} == of
    of = {"lr": "1", "grad_norm": "1", "it_per_s": "1/s", "epoch": "1"}
    assert {name: metrics[f"train/{name}"].unit for name in of} == of


# ---- the captured batches


def files(data: Path, part: str) -> dict[bytes, tuple[int, dict[str, Any]]]:
    """Return fidelity and arrays of each structure in the files, by its coordinates without padding."""
    found = {}
    for fidelity, name in enumerate(FIDELITIES):
        with h5py.File(data / f"{name}-{part}.h5") as file:
            for group in file.values():
                arrays = {key: array[:] for key, array in group.items()}
                for row in range(len(arrays["coord"])):
                    structure = {key: array[row] for key, array in arrays.items()}
                    found[identity(structure["coord"], structure["numbers"])] = fidelity, structure
    return found


def identity(coord: Any, numbers: Any) -> bytes:
    key: bytes = coord[numbers != 0].astype(np.float32).tobytes()
    return key


def structures(calls: list[Call]) -> Iterator[tuple[bytes, Call, int]]:
    """Yield the identity of each structure with its call and row."""
    for call in calls:
        for row, numbers in enumerate(call.numbers):
            yield identity(call.coord[row], numbers), call, row


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_labels_are_those_of_the_files_less_reference_energies(run: Finished, data: Path, part: str) -> None:
    known = files(data, part)
    saes = [yaml.safe_load((run.folder / "sae" / f"{name}.yaml").read_text()) for name in FIDELITIES]
    for key, call, row in structures(run.batches.calls(training=part == "train")):
        fidelity, structure = known[key]
        assert call.fidelity[row] == fidelity
        real = structure["numbers"] != 0
        shift = sum(saes[fidelity][number] for number in structure["numbers"][real].tolist())
        expected = {"energy": structure["energy"] - shift}
        expected |= {name: structure[name][real] for name in PER_ATOM if name in structure}
        expected |= {name: np.full(real.sum(), np.nan) for name in PER_ATOM if name not in structure}
        if part == "val" and not is_finite(call, row):
            # It is left out, whatever its labels are.
            expected = {name: np.full_like(values, np.nan) for name, values in expected.items()}
        atoms = call.numbers[row] != 0
        found = {name: array[row][atoms] if name in PER_ATOM else array[row] for name, array in call.true.items()}
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-6, nan_ok=True), name


def test_each_validation_evaluates_every_structure_once(run: Finished, data: Path) -> None:
    known = sorted(files(data, "val"))
    for batches in run.batches.validation.values():
        calls = [call for batch in batches for call in batch]
        assert sorted(key for key, *_ in structures(calls)) == known


# ---- handlers


def test_batch_rmse_in_a_handler_is_the_error_of_the_batch_in_source_units(
    data: Path, tmp_path: Path, captures: Path
) -> None:
    config = load([train_config(tmp_path, data)])
    parts = build_components(config, yaml.safe_load((SAMPLE / "model.yaml").read_text()), tmp_path, skipped={})
    trainer = build_trainer(parts.model, parts.optimizer, parts.loss_fn, parts.train_sums, device=parts.device)
    read: list[dict[str, float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: read.append(dict(engine.state.batch_rmse)))
    trainer.run(parts.train_loader)
    units = dict.fromkeys(PLAN.units, 1.0)
    for values, batch in zip(read, read_batches(captures), strict=True):
        expected = errors(batch, units)
        found = {f"{ABBREVIATIONS[label]}_rmse": value for label, value in values.items()}
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert len(read) == PLAN.batches_per_epoch
