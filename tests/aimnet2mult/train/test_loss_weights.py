"""Weights that change over the iterations, and adaptive ones, agree with NumPy and are exact across a resume."""

import io
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aimnet2mult.config.schema import load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.adaptive_loss import MTAdaWLoss
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.loss_weights import LossWeights
from aimnet2mult.train.plan import Request
from aimnet2mult.train.restoring import restore_part
from aimnet2mult.train.runner import train
from support import tiny_model
from support.file_contents import read_content
from support.host_reads import no_host_reads
from support.tiny_runs import newest_checkpoint, points, train_tiny
from telemetry import read_header, read_receipt

ENERGY_FN, ATOM_FN = "aimnet2mult.train.loss.energy_loss_fn", "aimnet2mult.train.loss.peratom_loss_fn"
CHARGES = {"fn": ATOM_FN, "kwargs": {"key_true": "charges", "key_pred": "charges"}}
RISING, FALLING = [[0, 0.1], [4, 0.5], [10, 2.0]], [[2, 1.0], [6, 0.25]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def components(energy: object, charges: object) -> dict[str, dict[str, Any]]:
    """Return the settings of two components with these weights."""
    return {"energy": {"fn": ENERGY_FN, "weight": energy}, "charges": {**CHARGES, "weight": charges}}


def at(points: list[list[float]], iteration: int) -> float:
    return float(np.interp(iteration, *np.array(points).T))


def expected_weights(iteration: int) -> tuple[float, float]:
    energy, charges = at(RISING, iteration), at(FALLING, iteration)
    return energy / (energy + charges), charges / (energy + charges)


def batch(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    pred = {"energy": torch.randn(4, generator=rng), "charges": torch.randn(4, 3, generator=rng)}
    true = {"energy": torch.randn(4, generator=rng), "charges": torch.randn(4, 3, generator=rng)}
    return {"numbers": torch.full((4, 3), 6), **pred}, true


def means(pred: dict[str, Tensor], true: dict[str, Tensor]) -> tuple[float, float]:
    """Return both components without their weights, computed with NumPy."""
    energy, charges = ((pred[name] - true[name]).double().numpy() for name in ("energy", "charges"))
    return float(np.mean(energy**2) / math.sqrt(3)), float(np.mean(charges**2))


# ---- scheduled weights


def test_weights_are_linear_between_points_and_divided_by_their_sum() -> None:
    weights = LossWeights({"energy": RISING, "charges": FALLING})
    for iteration in range(15):
        assert weights.at(iteration) == pytest.approx(expected_weights(iteration), rel=1e-14)
    assert weights.final == weights.at(10) == weights.at(10**9)


def test_constant_weights_are_those_of_earlier_versions_to_the_last_bit() -> None:
    given = {"energy": 1.0, "forces": 0.2, "charges": 0.05, "spin_charges": 0.05}
    weights = LossWeights(given)
    assert weights.at(7) == weights.final == tuple(weight / sum(given.values()) for weight in given.values())
    assert not weights.change


@pytest.mark.parametrize("iteration", [1, 3, 7, 40])
def test_the_loss_has_the_weights_of_its_iteration(iteration: int) -> None:
    loss_fn, (pred, true) = MTLoss(components(RISING, FALLING)), batch(0)
    loss_fn.set_iteration(iteration)
    losses = loss_fn(pred, true)
    expected = [weight * mean for weight, mean in zip(expected_weights(iteration), means(pred, true), strict=True)]
    assert [float(losses["energy"]), float(losses["charges"])] == pytest.approx(expected, rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(sum(expected), rel=1e-5)
    assert loss_fn.terms.weights == pytest.approx(expected_weights(10))
    assert loss_fn.current_weights is not None
    assert loss_fn.current_weights.tolist() == pytest.approx(expected_weights(iteration))


def test_changing_weights_read_nothing_from_the_device() -> None:
    pred, true = batch(0)
    pred["energy"].requires_grad_()
    scheduled, adaptive = MTLoss(components(RISING, 1)), MTAdaWLoss(adaptive_components())
    with no_host_reads():
        for iteration in (1, 2, 3):
            scheduled.set_iteration(iteration)
            scheduled(pred, true)["loss"].backward()
            adaptive(pred, true)["loss"].backward()


@pytest.mark.parametrize(
    "weight", [[], [[0, 1], [0, 2]], [[5, 1], [3, 2]], [[0, -1]], [[0.5, 1]], [[-1, 1]], [[0, 1, 2]], [0, 1], {0: 1}]
)
def test_an_invalid_schedule_of_a_weight_is_reported_before_torch_is_loaded(tmp_path: Path, weight: Any) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    overrides = [f"data.fidelity_datasets.0={tmp_path / 'a.h5'}", f"loss.kwargs.components.energy.weight={weight}"]
    message = r"components.energy.weight is .*: expected a finite number of at least 0, or pairs \[iteration, weight\]"
    with pytest.raises(ConfigError, match=message):
        load([], overrides)
    with pytest.raises(ConfigError, match=r"weight of loss component 'energy' is .*or pairs \[iteration, weight\]"):
        MTLoss(components(weight, 1))


def test_weights_that_are_all_zero_in_an_iteration_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"are \{'energy': 0.0, 'charges': 0.0\} at iteration 5; expected at least"):
        MTLoss(components([[0, 1], [5, 0]], [[2, 1], [4, 0]]))
    MTLoss(components([[0, 0], [5, 1]], [[0, 1], [5, 0]]))


# ---- adaptive weights


def adaptive_components(**changes: dict[str, object]) -> dict[str, dict[str, Any]]:
    scales = {"energy": 2.0, "charges": 0.5}
    parts = components(3, 1)
    return {name: {**parts[name], "scale": scales[name], **changes.get(name, {})} for name in parts}


def expected_scales(batches: int, eta: float) -> list[float]:
    """Return the scale of the charges before each batch and after the last one, by the rule of the original."""
    scales = [0.5]
    for seed in range(batches):
        energy, charges = means(*batch(seed))
        share = scales[-1] * charges / (2.0 * energy + scales[-1] * charges)
        scales.append(scales[-1] * (1 - eta if share > 0.25 else 1 + eta))
    return scales


def scales_of(loss_fn: MTAdaWLoss) -> list[float]:
    found: list[float] = loss_fn.state_dict()["scales"].tolist()
    return found


def test_scales_adapt_until_each_component_has_its_share() -> None:
    loss_fn, expected = MTAdaWLoss(adaptive_components(), eta=0.1), expected_scales(30, 0.1)
    for seed in range(30):
        losses = loss_fn(*batch(seed))
        energy, charges = means(*batch(seed))
        assert float(losses["loss"]) == pytest.approx(2.0 * energy + expected[seed] * charges, rel=1e-5)
        assert loss_fn.current_weights is not None
        assert loss_fn.current_weights.tolist() == pytest.approx([2.0, expected[seed]])
        assert scales_of(loss_fn) == pytest.approx([2.0, expected[seed + 1]])
    assert {after > before for before, after in pairwise(expected)} == {True, False}, "the example covers both cases"
    assert loss_fn.terms.weights == (2.0, 0.5)


def test_neither_validations_nor_losses_that_are_not_finite_change_a_scale() -> None:
    loss_fn = MTAdaWLoss(adaptive_components(), eta=0.1)
    with torch.no_grad():
        loss_fn(*batch(0))
    assert scales_of(loss_fn) == [2.0, 0.5]
    pred, true = batch(0)
    pred["energy"][0] = math.inf
    loss_fn(pred, true)
    assert scales_of(loss_fn) == [2.0, 0.5]


def test_a_component_without_labels_in_a_batch_keeps_its_scale() -> None:
    loss_fn = MTAdaWLoss(adaptive_components(), eta=0.1)
    pred, true = batch(0)
    unlabeled = {**true, "charges": torch.full_like(true["charges"], torch.nan)}
    loss_fn(pred, unlabeled)
    assert scales_of(loss_fn) == [2.0, 0.5]
    loss_fn(pred, true)
    assert scales_of(loss_fn)[1] != 0.5


def test_labels_on_another_rank_count() -> None:
    pred, true = batch(0)
    true["charges"][:] = torch.nan
    loss_fn = MTAdaWLoss(adaptive_components(), eta=0.1)
    loss_fn.use_ranks(OneOfTwo(torch.tensor([4, 12]), torch.tensor([[0.0, 0.0], [4.0, 12.0]])))
    loss_fn(pred, true)
    assert scales_of(loss_fn) == pytest.approx([2.0, 0.55])


class OneOfTwo(Communicator):
    """One of two ranks, of which the other has the same batch without errors of the charges."""

    world_size = 2

    def __init__(self, *others: Tensor) -> None:
        super().__init__()
        self._others = list(others)

    def all_reduce_sum(self, tensor: Tensor) -> None:
        tensor += self._others.pop(0).to(tensor)


def test_several_ranks_adapt_to_the_loss_of_the_whole_batch() -> None:
    pred, true = batch(0)
    energy, charges = means(pred, true)
    # Alone, the charges are far above their share; together with the other rank, they are below it.
    other = torch.tensor([[50 * charges, 0.0], [4.0, 12.0]])
    loss_fn = MTAdaWLoss(adaptive_components(energy={"scale": 0.01}), eta=0.1)
    loss_fn.use_ranks(OneOfTwo(torch.tensor([4, 12]), other))
    assert 0.5 * charges / (0.01 * energy + 0.5 * charges) > 0.25
    loss_fn(pred, true)
    assert scales_of(loss_fn) == pytest.approx([0.01, 0.55])


def test_the_scales_are_restored_from_a_checkpoint() -> None:
    first, second = (MTAdaWLoss(adaptive_components(), eta=0.1) for _ in range(2))
    for seed in range(7):
        first(*batch(seed))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    restore_part(second, torch.load(file, weights_only=True))
    for seed in range(7, 12):
        assert torch.equal(first(*batch(seed))["loss"], second(*batch(seed))["loss"])
    state = first.state_dict()
    for wrong in ({"components": ["energy", "forces"]}, {"scales": torch.tensor([1.0, math.nan])}):
        with pytest.raises(ValueError, match="the saved scales are"):
            second.load_state_dict({**state, **wrong})


@pytest.mark.parametrize(
    ("parts", "eta", "message"),
    [
        (components(1, 1), 0.1, "the scale of loss component 'energy' is None; expected a finite number above 0"),
        (adaptive_components(charges={"scale": -1}), 0.1, "the scale of loss component 'charges' is -1; expected"),
        (
            adaptive_components(charges={"weight": RISING}),
            0.1,
            "whose weights are shares and cannot change",
        ),
        (adaptive_components(), 1.5, "loss.kwargs.eta is 1.5; expected a number between 0 and 1"),
    ],
)
def test_an_invalid_adaptive_loss_is_rejected(parts: dict[str, dict[str, Any]], eta: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MTAdaWLoss(parts, eta)


# ---- runs

SCHEDULED = (
    "loss.class=support.tiny_model.StoppingMTLoss",
    f"loss.kwargs={json.dumps({'components': components(RISING, FALLING)})}",
    "telemetry.every=1",
)
ADAPTIVE = (
    "loss.class=aimnet2mult.train.adaptive_loss.MTAdaWLoss",
    f"loss.kwargs={json.dumps({'components': adaptive_components(), 'eta': 0.1})}",
    "telemetry.every=1",
)
CLOCK = ("it_per_s",)


def curves(run: Path) -> dict[str, dict[int, dict[str, float]]]:
    return {
        stream: {
            step: {name: value for name, value in values.items() if name not in CLOCK}
            for step, values in points(run, stream).items()
        }
        for stream in ("train", "train_window", "train_epoch", "val")
    }


def test_published_losses_have_the_final_weights_and_the_current_ones_are_published(tmp_path: Path) -> None:
    found = curves(train_tiny(tmp_path, *SCHEDULED))
    energy, charges = expected_weights(10)
    for stream in ("train_window", "train_epoch", "val"):
        for values in found[stream].values():
            total = energy * values["loss_energy"] + charges * values["loss_charges"]
            assert values["loss"] == pytest.approx(total, rel=1e-12)
    for step, values in found["train"].items():
        weights = values["weight_energy"], values["weight_charges"]
        assert weights == pytest.approx(expected_weights(step), rel=1e-6)
    assert list(found["train"]) == list(range(1, 13))


def test_scheduled_weights_are_exact_across_a_resume(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train_tiny(tmp_path / "a", *SCHEDULED)
    # The fifth training batch comes after three of the first epoch and its validation.
    tiny_model.Stopping.calls_left = 6
    run = train_tiny(tmp_path / "b", *SCHEDULED)
    assert read_receipt(run).status == "preempted"
    assert train(Request(resume=str(run))) == 0
    assert curves(run) == curves(whole)


def test_adaptive_weights_are_exact_across_a_resume(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train_tiny(tmp_path / "a", *ADAPTIVE)
    run = train_tiny(tmp_path / "b", *ADAPTIVE, "trainer.epochs=2")
    saved = read_content(newest_checkpoint(run))["parts"]["loss"]["scales"].tolist()
    assert saved[0] == 2.0
    assert math.log(saved[1] / 0.5) != 0
    assert train(Request(resume=str(run), overrides=["trainer.epochs=4"])) == 0
    assert curves(run) == curves(whole)
    assert "train/weight_charges" in read_header(run).metrics
    for values in curves(run)["val"].values():
        assert values["loss"] == pytest.approx(2.0 * values["loss_energy"] + 0.5 * values["loss_charges"], rel=1e-12)
