"""Recompute every published value of a run in NumPy from the predictions of its batches.

The calculation knows neither error sums nor streams nor ranks: it pools what counts, and applies the formulas of
docs/reference/metrics.md.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from support.oracle import Batch, Call

__all__ = [
    "ABBREVIATIONS",
    "LOSSES",
    "WEIGHTS",
    "Batches",
    "Plan",
    "Points",
    "assemble",
    "assert_agree",
    "errors",
    "expected_points",
    "gradient_norm",
    "is_finite",
]

ABBREVIATIONS = {"energy": "E", "forces": "F", "charges": "q", "spin_charges": "s"}
WEIGHTS = {"energy": 1.0, "forces": 0.5, "charges": 0.25, "spin_charges": 0.25}
"""Weights of the components of the loss."""

Values = dict[str, float]
Points = dict[tuple[str, int], Values]
"""Values by stream and iteration."""
Loss = Callable[[Sequence[Call]], Values]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of a run, by iteration."""

    training: Mapping[int, Batch]
    validation: Mapping[int, Sequence[Batch]]

    def calls(self, *, training: bool) -> list[Call]:
        """Return all calls in training or in validation."""
        batches = self.training.values() if training else [batch for part in self.validation.values() for batch in part]
        return [call for batch in batches for call in batch]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run that the calculation needs."""

    every: int
    batches_per_epoch: int
    lr: float
    gamma: float
    """Factor of the learning rate per iteration."""
    fidelities: Sequence[str]
    units: Mapping[str, float]
    """Display units by abbreviation, as a factor from eV, Å and e."""
    loss: str
    """A key of `LOSSES`."""
    ends: Collection[int] = ()
    """Iterations at which the run was complete before it was resumed for more epochs."""


def assemble(attempts: Iterable[tuple[int, Sequence[Batch]]]) -> Batches:
    """Return the batches that count, from those of each attempt and the iteration from which it continued.

    The last attempt that did an iteration or a validation counts.
    """
    training: dict[int, Batch] = {}
    validation: dict[int, list[Batch]] = {}
    for start, batches in attempts:
        iteration = start
        own: dict[int, list[Batch]] = {}
        for batch in batches:
            if batch[0].training:
                iteration += 1
                training[iteration] = batch
            else:
                own.setdefault(iteration, []).append(batch)
        validation |= own
    return Batches(training=training, validation=validation)


def expected_points(batches: Batches, plan: Plan) -> Points:
    """Return every point that a run must publish, except its speed."""
    last, length, loss = max(batches.training), plan.batches_per_epoch, LOSSES[plan.loss]
    skipped = {i for i, batch in batches.training.items() if not np.isfinite(gradient_norm(batch))}

    def trained(steps: Iterable[int]) -> Values:
        steps = list(steps)
        calls = [call for step in steps if step not in skipped for call in batches.training[step]]
        return {**_pooled(calls, plan, ["atom_rmse"]), "skipped_steps": len(skipped.intersection(steps))}

    points: Points = {}
    for step in {*range(plan.every, last + 1, plan.every), *plan.ends, last}:
        batch = batches.training[step]
        points["train", step] = {
            **{name: value for name, value in loss(batch).items() if name == "loss"},
            **errors(batch, plan.units),
            "lr": plan.lr * plan.gamma ** (step - 1),
            "epoch": -(-step // length),
            "grad_norm": gradient_norm(batch),
        }
        points["train_window", step] = trained(range((step - 1) // plan.every * plan.every + 1, step + 1))
    for epoch in range(1, last // length + 1):
        values = trained(range((epoch - 1) * length + 1, epoch * length + 1))
        points["train_epoch", epoch * length] = values | {"epoch": epoch}
    for step, validation in batches.validation.items():
        calls = [call for batch in validation for call in batch]
        values = _pooled(calls, plan, ["atom_rmse", "mae", "r2"])
        left_out = sum(not is_finite(call, row) for call in calls for row in range(len(call.numbers)))
        points["val", step] = values | {"skipped_structures": left_out, "epoch": -(-step // length)}
    return points


def assert_agree(found: Points, expected: Points, *, double: float = 1e-9, single: float = 1e-6) -> None:
    """Check that both have the same points, streams, iterations and metrics, and the same values.

    Args:
        found: the published points, without their speed.
        expected: the result of `expected_points`, or a part of it.
        double: relative tolerance of what is summed in float64.
        single: relative tolerance of the loss, whose squares are those of float32, and of the norm of the gradient.
    """
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        values = found[key]
        assert values.keys() == wanted.keys(), key
        in_single = {name for name in wanted if name.startswith("loss") or name == "grad_norm"}
        for names, tolerance in ((in_single, single), (wanted.keys() - in_single, double)):
            part = {name: wanted[name] for name in names}
            assert {name: values[name] for name in names} == pytest.approx(part, rel=tolerance, nan_ok=True), key


def gradient_norm(batch: Batch) -> float:
    """Return the norm of the mean of the gradients of the ranks."""
    gradients = [np.concatenate([part.ravel().astype(float) for part in call.gradient]) for call in batch]
    return float(np.linalg.norm(np.mean(gradients, axis=0)))


def is_finite(call: Call, row: int) -> bool:
    """Return whether all predictions for the real atoms of a structure are finite."""
    real = call.numbers[row] != 0
    return all(np.isfinite(p[row] if label == "energy" else p[row][real]).all() for label, p in call.pred.items())


def _pooled(calls: Sequence[Call], plan: Plan, kinds: Collection[str]) -> Values:
    found = {**LOSSES[plan.loss](calls), **errors(calls, plan.units, kinds)}
    for index, name in enumerate(plan.fidelities):
        found |= {f"{name}/{key}": value for key, value in errors(calls, plan.units, kinds, fidelity=index).items()}
    return found


# ---- errors


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The components of a label that count, one after the other."""

    pred: NDArray[np.float64]
    true: NDArray[np.float64]
    atoms: NDArray[np.float64]
    """Number of real atoms of the structure."""


def _count(calls: Iterable[Call], label: str, fidelity: int | None = None) -> Counted:
    """Pool the components of a label over all calls."""
    parts = [part for call in calls for part in _components(call, label, fidelity)]
    columns = np.array(parts, dtype=float).reshape(-1, 3).T
    return Counted(pred=columns[0], true=columns[1], atoms=columns[2])


def _components(call: Call, label: str, fidelity: int | None) -> Iterator[tuple[float, float, int]]:
    mask = call.true.get(f"{label}_mask")
    for row, numbers in enumerate(call.numbers):
        if fidelity is not None and call.fidelity[row] != fidelity:
            continue
        pred, true = (np.atleast_1d(side[label][row]).astype(float) for side in (call.pred, call.true))
        counts = np.isfinite(true)
        if label != "energy":
            counts[numbers == 0] = False
        if mask is not None:
            counts[~np.broadcast_to(mask[row], true.shape[:1])] = False
        natom = int(np.count_nonzero(numbers))
        yield from ((p, t, natom) for p, t in zip(pred[counts], true[counts], strict=True))


def errors(
    calls: Sequence[Call], units: Mapping[str, float], kinds: Collection[str] = (), fidelity: int | None = None
) -> Values:
    """Return the RMSEs and further kinds of metrics, in display units."""
    found: Values = {}
    for label, abbr in ABBREVIATIONS.items():
        counted = _count(calls, label, fidelity)
        error, unit = counted.pred - counted.true, units[abbr]
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


# ---- losses


def _weighted_components(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingLoss` and its components."""
    return _weighted_sum({label: _mean_square(calls, label) for label in WEIGHTS})


def _with_an_undecorated_component(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingLoss` whose component ``charges`` returns no sum and count."""
    means = {label: _mean_square(calls, label) for label in WEIGHTS}
    return _weighted_sum({**means, "charges": _structure_mean(calls, lambda call: _plain_square(call, "charges"))})


def _whole_loss(calls: Sequence[Call]) -> Values:
    """Return the loss of `CapturingWholeLoss`."""
    loss = _structure_mean(calls, lambda call: _plain_square(call, "energy") + _plain_square(call, "charges"))
    return {} if loss is None else {"loss": loss}


LOSSES: Mapping[str, Loss] = {
    "sums and counts": _weighted_components,
    "an undecorated component": _with_an_undecorated_component,
    "a class without components": _whole_loss,
}


def _weighted_sum(means: Mapping[str, float | None]) -> Values:
    labeled = {label: mean for label, mean in means.items() if mean is not None}
    if not labeled:
        return {}
    loss = sum(WEIGHTS[label] * mean for label, mean in labeled.items()) / sum(WEIGHTS.values())
    return {"loss": loss, **{f"loss_{label}": mean for label, mean in labeled.items()}}


def _mean_square(calls: Sequence[Call], label: str) -> float | None:
    counted = _count(calls, label)
    square = (counted.pred - counted.true) ** 2
    if not square.size:
        return None
    return float(np.mean(square / np.sqrt(counted.atoms) if label == "energy" else square))


def _structure_mean(calls: Sequence[Call], value: Callable[[Call], float]) -> float | None:
    """Return the mean of a value of batches, weighted by the number of structures with any label."""
    weights = [
        sum(
            any(np.isfinite(call.true[label][row]).any() for label in ABBREVIATIONS) for row in range(len(call.numbers))
        )
        for call in calls
    ]
    return float(np.average([value(call) for call in calls], weights=weights)) if any(weights) else None


def _plain_square(call: Call, label: str) -> float:
    return float(np.mean(np.nan_to_num(call.pred[label].astype(float) - call.true[label]) ** 2))
