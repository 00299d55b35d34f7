"""Every published value of real runs is recomputed in NumPy from the captured predictions.

The calculation here knows neither error sums nor streams: it pools what counts, and applies the formulas of
docs/reference/metrics.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.oracle import CAPTURES, Call, read_calls, undecorated_loss
from support.tiny_runs import points

ABBREVIATIONS = {"energy": "E", "forces": "F", "charges": "q", "spin_charges": "s"}
UNITS = {"E": 23.060547830619026, "F": 23.060547830619026, "q": 1.0, "s": 1.0}
"""kcal/mol for eV."""
NAMES = ("low", "high")
WEIGHTS = {"energy": 1.0, "forces": 0.5, "charges": 0.25, "spin_charges": 0.25}
EVERY, VALIDATE_EVERY, EPOCHS, BATCHES_PER_EPOCH, LEARNING_RATE = 3, 4, 2, 7, 2e-3
LAST = EPOCHS * BATCHES_PER_EPOCH

Values = dict[str, float]
Loss = Callable[[Sequence[Call]], Values]


# ---- the calculation


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The components of a label that count, one after the other."""

    pred: NDArray[np.float64]
    true: NDArray[np.float64]
    atoms: NDArray[np.float64]
    """Number of real atoms of the structure."""


def count(calls: Iterable[Call], label: str, fidelity: int | None = None) -> Counted:
    """Pool the components of a label over all calls."""
    parts: list[tuple[float, float, int]] = []
    for call in calls:
        if label not in call.true:
            continue
        mask = call.true.get(f"{label}_mask")
        for row, numbers in enumerate(call.numbers):
            if fidelity is not None and call.fidelity[row] != fidelity:
                continue
            natom = int(np.count_nonzero(numbers))
            pred, true = (np.asarray(side[label][row], dtype=float) for side in (call.pred, call.true))
            allowed = np.ones_like(true, dtype=bool)
            if label != "energy":
                allowed[numbers == 0] = False
            if mask is not None:
                allowed[~mask[row]] = False
            allowed &= np.isfinite(true)
            parts += [(p, t, natom) for p, t in zip(pred[allowed], true[allowed], strict=True)]
    columns = np.array(parts, dtype=float).reshape(-1, 3).T
    return Counted(pred=columns[0], true=columns[1], atoms=columns[2])


def errors(calls: Sequence[Call], *, kinds: Sequence[str], fidelity: int | None = None) -> Values:
    """Return the metrics of the errors, in display units."""
    found: Values = {}
    for label, abbr in ABBREVIATIONS.items():
        counted = count(calls, label, fidelity)
        error, unit = counted.pred - counted.true, UNITS[abbr]
        if not error.size:
            continue
        found[f"{abbr}_rmse"] = math.sqrt(np.mean(error**2)) * unit
        if "atom_rmse" in kinds and label == "energy":
            found["E_atom_rmse"] = math.sqrt(np.mean((error / counted.atoms) ** 2)) * unit
        if "mae" in kinds:
            found[f"{abbr}_mae"] = float(np.mean(abs(error))) * unit
        if "r2" in kinds:
            found[f"{abbr}_r2"] = float(1 - np.sum(error**2) / np.sum((counted.true - counted.true.mean()) ** 2))
    return found


def weighted_components(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingLoss` and its components."""
    components: Values = {}
    for label in WEIGHTS:
        counted = count(calls, label)
        square = (counted.pred - counted.true) ** 2
        if square.size:
            components[label] = float(np.mean(square / np.sqrt(counted.atoms) if label == "energy" else square))
    loss = sum(WEIGHTS[label] * mean for label, mean in components.items()) / sum(WEIGHTS.values())
    return {"loss": loss, **{f"loss_{label}": mean for label, mean in components.items()}}


def structure_mean(calls: Sequence[Call], value: Callable[[Call], float]) -> float:
    """Return the mean of a value of batches, weighted by the number of structures with any label."""
    weights = [
        sum(
            any(np.isfinite(call.true[label][row]).any() for label in ABBREVIATIONS) for row in range(len(call.numbers))
        )
        for call in calls
    ]
    return float(np.average([value(call) for call in calls], weights=weights))


def plain_square(call: Call, label: str) -> float:
    return float(np.mean(np.nan_to_num(call.pred[label].astype(float) - call.true[label]) ** 2))


def whole_loss(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingWholeLoss`."""
    return {"loss": structure_mean(calls, lambda call: plain_square(call, "energy") + plain_square(call, "charges"))}


def with_an_undecorated_component(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingLoss` whose component ``charges`` returns no sum and count."""
    found = weighted_components(calls)
    charges = structure_mean(calls, lambda call: plain_square(call, "charges"))
    change = WEIGHTS["charges"] * (charges - found["loss_charges"]) / sum(WEIGHTS.values())
    return {**found, "loss_charges": charges, "loss": found["loss"] + change}


def expected_points(calls: Sequence[Call], loss: Loss) -> dict[tuple[str, int], Values]:
    """Return every point that the run must publish, except speed and gradient norm."""
    training = [call for call in calls if call.training]
    validations: dict[int, list[Call]] = {}
    iteration = 0
    for call in calls:
        iteration += call.training
        if not call.training:
            validations.setdefault(iteration, []).append(call)

    def pooled(part: Sequence[Call], kinds: Sequence[str]) -> Values:
        found = {**loss(part), **errors(part, kinds=kinds)}
        for index, name in enumerate(NAMES):
            found |= {f"{name}/{key}": value for key, value in errors(part, kinds=kinds, fidelity=index).items()}
        return found

    expected: dict[tuple[str, int], Values] = {}
    for step in [*range(EVERY, LAST + 1, EVERY), *([LAST] if LAST % EVERY else [])]:
        batch = training[step - 1 : step]
        epoch = -(-step // BATCHES_PER_EPOCH)
        expected["train", step] = {
            "loss": loss(batch)["loss"],
            "lr": LEARNING_RATE,
            "epoch": epoch,
            **errors(batch, kinds=()),
        }
        window = training[(step - 1) // EVERY * EVERY : step]
        expected["train_window", step] = pooled(window, ["atom_rmse"]) | {"skipped_steps": 0}
    for epoch in range(1, EPOCHS + 1):
        part = training[(epoch - 1) * BATCHES_PER_EPOCH : epoch * BATCHES_PER_EPOCH]
        values = pooled(part, ["atom_rmse"]) | {"skipped_steps": 0, "epoch": epoch}
        expected["train_epoch", epoch * BATCHES_PER_EPOCH] = values
    for step in range(VALIDATE_EVERY, LAST + 1, VALIDATE_EVERY):
        values = pooled(validations.pop(step), ["atom_rmse", "mae", "r2"])
        expected["val", step] = values | {"skipped_structures": 0, "epoch": -(-step // BATCHES_PER_EPOCH)}
    assert not validations
    return expected


# ---- the runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return slices of the sample data with labels missing here and there, and sizes that are padded."""
    folder, rng = tmp_path_factory.mktemp("oracle"), np.random.default_rng(0)
    for name, source in zip(NAMES, ("gfn1.h5", "spgfn2.h5"), strict=True):
        with h5py.File(SAMPLE / source) as whole, h5py.File(folder / f"{name}.h5", "w") as part:
            for size, number in (("003", 40), ("004", 17)):
                for key, values in whole[size].items():
                    array = values[:number]
                    if key in ABBREVIATIONS:
                        array[rng.random(number) < 0.2] = np.nan
                        array[rng.random(array.shape) < 0.1] = np.nan
                    part[f"{size}/{key}"] = array
    return [folder / f"{name}.h5" for name in NAMES]


def components(**functions: str) -> dict[str, Any]:
    found = {}
    for label, weight in WEIGHTS.items():
        name = functions.get(label) or f"aimnet2mult.train.loss.{'energy' if label == 'energy' else 'peratom'}_loss_fn"
        keys = {} if label == "energy" or label in functions else {"key_true": label, "key_pred": label}
        found[label] = {"fn": name, "weight": weight, "kwargs": keys}
    return {"components": found}


UNDECORATED = f"{undecorated_loss.__module__}.{undecorated_loss.__name__}"
LOSSES: dict[str, tuple[dict[str, Any], Loss]] = {
    "sums and counts": ({"class": "support.oracle.CapturingLoss", "kwargs": components()}, weighted_components),
    "an undecorated component": (
        {"class": "support.oracle.CapturingLoss", "kwargs": components(charges=UNDECORATED)},
        with_an_undecorated_component,
    ),
    "a class without components": ({"class": "support.oracle.CapturingWholeLoss", "kwargs": {}}, whole_loss),
}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run with its calls of the loss."""

    folder: Path
    calls: list[Call]
    loss: Loss


@pytest.fixture(scope="module", params=list(LOSSES))
def run(request: pytest.FixtureRequest, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train a small AIMNet2 of two fidelities."""
    folder = tmp_path_factory.mktemp("run")
    section, loss = LOSSES[request.param]
    content: Mapping[str, Any] = {
        "run_name": "oracle",
        "threads": 1,
        "device": "cpu",
        "data": {
            "fidelity_datasets": dict(enumerate(map(str, files))),
            "fidelity_names": dict(enumerate(NAMES)),
            "fidelity_weights": {1: 2.0},
            "val_fraction": 0.3,
            "samplers": {
                "train": {"batch_size": 8, "batches_per_epoch": BATCHES_PER_EPOCH},
                # Batches of different sizes.
                "val": {"batch_size": 10},
            },
        },
        "loss": section,
        "optimizer": {"class": "torch.optim.Adam", "kwargs": {"lr": LEARNING_RATE}},
        "trainer": {"epochs": EPOCHS},
        "log_frequency": {"val": VALIDATE_EVERY},
        "telemetry": {"sinks": "none", "every": EVERY, "dir": str(folder / "runs")},
    }
    write_yaml(folder / "train.yaml", content)
    captures = folder / "captures"
    captures.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CAPTURES, str(captures))
        assert train(Request(configs=[folder / "train.yaml"], model=SAMPLE / "model.yaml")) == 0
    (path,) = (folder / "runs").iterdir()
    return Finished(folder=path, calls=read_calls(captures), loss=loss)


def test_the_run_has_padding_masks_missing_labels_and_two_fidelities(run: Finished) -> None:
    for training in (True, False):
        calls = [call for call in run.calls if call.training == training]
        assert any((call.numbers == 0).any() for call in calls) == training
        assert {fidelity for call in calls for fidelity in call.fidelity} == {0, 1}
        for label in ABBREVIATIONS:
            values = np.concatenate([call.true[label].ravel() for call in calls])
            assert 0.05 < np.isnan(values).mean() < 0.9, label
        masks = np.concatenate([call.true["forces_mask"].ravel() for call in calls])
        assert 0.05 < masks.mean() < 0.95
    assert len({len(call.numbers) for call in run.calls if not call.training}) > 1


def test_every_published_value_agrees_with_numpy(run: Finished) -> None:
    expected = expected_points(run.calls, run.loss)
    published = {
        (stream, step): values
        for stream in ("train", "train_window", "train_epoch", "val")
        for step, values in points(run.folder, stream).items()
    }
    assert published.keys() == expected.keys()
    for key, values in published.items():
        others = {name: values.pop(name) for name in ("it_per_s", "grad_norm") if key[0] == "train"}
        assert all(value > 0 for value in others.values())
        # Squares of float32 predictions are summed in float64, except in the loss.
        losses = {name: values.pop(name) for name in list(values) if name.startswith("loss")}
        wanted = {name: expected[key].pop(name) for name in list(expected[key]) if name.startswith("loss")}
        assert losses == pytest.approx(wanted, rel=1e-6), key
        assert values == pytest.approx(expected[key], rel=1e-9, abs=1e-12), key
