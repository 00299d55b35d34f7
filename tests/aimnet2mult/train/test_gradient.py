"""Processing a batch in parts yields the loss, gradient and errors of the whole batch, whatever is missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aimnet2mult import quantities
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.layout import LossTerms
from aimnet2mult.train.engine import build_trainer
from aimnet2mult.train.gradient import Batch, build_gradient
from aimnet2mult.train.loss import MTLoss, mean
from support.host_reads import no_host_reads
from support.labeled_model import LabeledCore
from support.tiny_model import TinyModel, batches
from support.tiny_runs import build_tiny, points, train_tiny

LABELS = ("energy", "forces", "charges")
KNOWN = [quantities.LABELS[name] for name in LABELS]
WEIGHTS = {"energy": 0.5, "forces": 0.3, "charges": 0.2}
TERMS = LossTerms(names=LABELS, weights=tuple(WEIGHTS.values()))


def components(weights: Mapping[str, float] = WEIGHTS) -> dict[str, Any]:
    fn = "aimnet2mult.train.loss.peratom_loss_fn"
    found: dict[str, Any] = {
        name: {"fn": fn, "weight": weight, "kwargs": {"key_true": name, "key_pred": name}}
        for name, weight in weights.items()
    }
    return found | {"energy": {"fn": "aimnet2mult.train.loss.energy_loss_fn", "weight": weights["energy"]}}


class MaskedLoss(MTLoss):
    """A loss that adds a mask to the labels, which depends on the inputs."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Any) -> dict[str, Tensor]:
        y_true["forces_mask"] = y_pred["coord"][..., 0] > 0
        return super().__call__(y_pred, y_true)


def uneven_batch(structures: int) -> Batch:
    """Return a batch in double precision whose labels are missing unevenly."""
    x, y = batches(1, structures=structures, atoms=5)[0]
    y["energy"][1:-1:2] = torch.nan
    y["forces"][: structures // 2] = torch.nan
    y["charges"][-1, 1:] = torch.nan
    halves = [{k: v.double() if v.is_floating_point() else v for k, v in half.items()} for half in (x, y)]
    return halves[0], halves[1]


def loss_in_numpy(pred: Mapping[str, Tensor], x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> float:
    """Return the loss of a whole batch, computed independently."""
    atoms = (x["numbers"] != 0).numpy()
    true, found = ({key: half[key].detach().numpy() for key in LABELS} for half in (y, pred))
    square = {key: (found[key] - true[key]) ** 2 for key in LABELS}
    means = {
        "energy": np.nanmean(square["energy"] / np.sqrt(atoms.sum(1))),
        "charges": np.nanmean(np.where(atoms, square["charges"], np.nan)),
        "forces": np.nanmean(square["forces"][atoms & (x["coord"][..., 0] > 0).numpy()]),
    }
    return float(sum(WEIGHTS[key] * means[key] for key in LABELS))


@pytest.mark.parametrize(("structures", "parts"), [(7, 2), (7, 3), (7, 7), (2, 4)])
def test_loss_gradient_and_errors_are_those_of_the_whole_batch(structures: int, parts: int) -> None:
    model = TinyModel().double()
    x, y = uneven_batch(structures)
    gradients, sums, outputs = [], [], []
    for number in (1, parts):
        model.zero_grad()
        (bx, by), (pred, losses) = build_gradient(model, MaskedLoss(components()), Communicator(), number)(
            (dict(x), dict(y))
        )
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        one = ErrorSums(KNOWN, 2, loss=TERMS)
        one.update(pred, by, bx["numbers"], bx["fidelity"], losses)
        sums.append(one.state_dict()["sums"])
        outputs.append((pred, losses))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sums[1], sums[0], rtol=1e-12, atol=1e-14)
    expected = loss_in_numpy(outputs[0][0], x, y)
    assert [float(losses["loss"].detach()) for _, losses in outputs] == pytest.approx([expected, expected], rel=1e-12)


@pytest.mark.parametrize("parts", [1, 3])
def test_labels_of_structures_with_several_components(parts: int) -> None:
    model = LabeledCore().double()
    x, _ = uneven_batch(7)
    gaps = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gaps[0, 1] = gaps[2] = gaps[5, 0] = torch.nan
    loss_fn = {
        "fn": "aimnet2mult.train.loss.mse_loss_fn",
        "weight": 1,
        "kwargs": {"key_true": "gaps", "key_pred": "gaps"},
    }
    _, (pred, losses) = build_gradient(model, MTLoss({"gaps": loss_fn}), Communicator(), parts)((x, {"gaps": gaps}))
    errors = pred["gaps"].detach().numpy() - gaps.numpy()
    assert float(losses["loss"].detach()) == pytest.approx(np.nanmean(errors**2), rel=1e-12)
    # The gaps are the energy times the scales.
    with torch.no_grad():
        energies = model(dict(x))["energy"].numpy()[:, None]
    expected = np.nansum(2 * errors * energies, axis=0) / np.isfinite(errors).sum()
    assert model.scale.grad is not None
    np.testing.assert_allclose(model.scale.grad[1:], expected, rtol=1e-10)


class TwoRanks(Communicator):
    """The first of two ranks; the other one has the same share."""

    world_size = 2

    def all_reduce_sum(self, tensor: Tensor) -> None:
        tensor.mul_(2)


def test_equal_shares_of_several_ranks_have_the_gradient_of_one() -> None:
    model = TinyModel().double()
    gradients = []
    for communicator in (Communicator(), TwoRanks()):
        model.zero_grad()
        build_gradient(model, MaskedLoss(components()), communicator, 3)(uneven_batch(6))
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)


def test_a_step_in_parts_reads_nothing_from_the_device() -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    add_gradient = build_gradient(model, MTLoss(components()), Communicator(), 2)
    with no_host_reads():
        add_gradient(batches(1)[0])
        optimizer.zero_grad()


def test_each_part_is_released_before_the_next() -> None:
    alive: list[int] = []

    class Counting(TinyModel):
        def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
            alive.append(len(data["numbers"]))
            return super().forward(data)

    held: list[int] = []
    model = Counting()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (held.append(t.numel()), Held(t))[1], lambda h: h.tensor):
        build_gradient(model, MTLoss(components()), Communicator(), 4)(batches(1, structures=8)[0])
    assert alive == [2, 2, 2, 2]
    assert Held.most < 0.5 * sum(held)


class Held:
    """A tensor saved for the backward pass, and the largest number of elements saved at a time."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.numel()
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.numel()


def test_a_part_that_is_not_finite_spoils_the_whole_step() -> None:
    model = TinyModel()
    before = [p.detach().clone() for p in model.parameters()]
    batch = batches(1, structures=6)[0]
    batch[1]["energy"][0] = 1e30
    trainer = build_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        MTLoss(components()),
        ErrorSums(KNOWN, 2, loss=TERMS),
        device=torch.device("cpu"),
        micro_batches=3,
    )
    trainer.run([batch])
    assert not trainer.state.applied
    torch.testing.assert_close([p.detach() for p in model.parameters()], before, rtol=0, atol=0)


OWN = "loss={class: aimnet2mult.train.loss.MTLoss, kwargs: {components: {%s}}}"
ENERGY = "energy: {fn: aimnet2mult.train.loss.energy_loss_fn, weight: 1.0}"
CHARGES = (
    "charges: {fn: aimnet2mult.train.loss.peratom_loss_fn, weight: 1.0, kwargs: {key_true: charges, key_pred: charges}}"
)


def test_a_run_in_parts_has_the_same_curves(tmp_path: Path) -> None:
    runs = []
    for parts in (1, 3):
        (tmp_path / str(parts)).mkdir()
        loss = OWN % f"{ENERGY}, {CHARGES}"
        runs.append(train_tiny(tmp_path / str(parts), loss, f"trainer.micro_batches={parts}", "telemetry.every=1"))
    for stream in ("train", "train_epoch", "val"):
        whole, in_parts = (points(run, stream) for run in runs)
        assert whole.keys() == in_parts.keys()
        for step, values in whole.items():
            values.pop("it_per_s", None)
            in_parts[step].pop("it_per_s", None)
            assert in_parts[step] == pytest.approx(values, rel=1e-3), (stream, step)


def mean_square(y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> Tensor:
    return (y_pred["energy"] - y_true["energy"]).square().mean()


@mean
def of_the_model(y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a sum and a count that depend on an output besides the labels."""
    return y_pred["idle"].sum(), y_true["energy"].isfinite().sum()


class PlainLoss(MTLoss):
    """A loss that changes the total, and therefore returns a plain dictionary."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(super().__call__(y_pred, y_true))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("loss={class: support.tiny_model.SquaredLoss, kwargs: {}}", "not for support.tiny_model.SquaredLoss"),
        (
            OWN % "a: {fn: support.mean_square.mean_square, weight: 1.0}",
            r"loss components a \(support.mean_square.mean_square\) do not return sums and counts",
        ),
    ],
)
def test_a_loss_that_cannot_be_computed_in_parts_is_refused_before_the_data_are_read(
    loss: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("support.mean_square")
    module.mean_square = mean_square  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "support.mean_square", module)
    with pytest.raises(ConfigError, match=message):
        build_tiny(tmp_path, loss, "trainer.micro_batches=2")


@pytest.mark.parametrize("kind", ["plain dictionary", "'idle'"])
def test_a_loss_whose_counts_need_predictions_is_an_error(kind: str) -> None:
    loss_fn: Any = PlainLoss(components()) if kind == "plain dictionary" else MTLoss(components())
    if kind != "plain dictionary":
        loss_fn._functions["energy"] = (of_the_model, of_the_model.sum_and_count)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=kind):
        build_gradient(TinyModel(), loss_fn, Communicator(), 2)(batches(1)[0])


def test_dropout_and_other_modules_work_in_parts() -> None:
    model = TinyModel(dropout=0.5)
    build_gradient(model, MTLoss(components()), Communicator(), 2)(batches(1)[0])
    assert all(p.grad is not None for p in nn.ModuleList([model.mlp]).parameters())
