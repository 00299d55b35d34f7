"""The loss agrees with NumPy, and unlabeled components contribute exactly nothing."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.statistics import POOLED, statistics
from aimnet2mult.quantities import LABELS
from aimnet2mult.train.loss import MTLoss, energy_loss_fn, peratom_loss_fn
from support.host_reads import no_host_reads
from support.labels import built_in

ALL = tuple(LABELS)
MODULE = "aimnet2mult.train.loss"
WEIGHTS = {"energy": 1.0, "forces": 0.2, "charges": 0.05, "spin_charges": 0.05, "dipole": 0.3, "quadrupole": 0.1}
POISON = (0.0, math.nan, math.inf, -math.inf, 1e30)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def component(name: str, weight: float) -> dict[str, object]:
    if name == "energy":
        return {"fn": f"{MODULE}.energy_loss_fn", "weight": weight}
    per_atom = name not in LABELS or LABELS[name].per_atom
    return {
        "fn": f"{MODULE}.{'peratom' if per_atom else 'mse'}_loss_fn",
        "weight": weight,
        "kwargs": {"key_true": name, "key_pred": name},
    }


def all_labels() -> MTLoss:
    return MTLoss({name: component(name, weight) for name, weight in WEIGHTS.items()})


def random_batch(seed: int = 0, structures: int = 6, atoms: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw float64 predictions, with padding, and labels."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, 10, (structures, atoms), generator=rng)
    numbers[0, 2:] = 0
    numbers[1, 4] = 0
    shapes = {name: LABELS[name].shape(structures, atoms) for name in ALL}
    options = {"dtype": torch.float64, "generator": rng}
    pred = {name: torch.randn(shape, **options) for name, shape in shapes.items()}
    true = {name: torch.randn(shape, **options) for name, shape in shapes.items()}
    return {"numbers": numbers, **pred}, true


def with_gradients(pred: dict[str, Tensor], true: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the losses, and the gradient of the total in each prediction."""
    leaves = {name: pred[name].clone().requires_grad_() for name in ALL}
    losses = all_labels()({**pred, **leaves}, true)
    losses["loss"].backward()
    return losses, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


# ---- numbers ---------------------------------------------------------------------------------------


def test_the_energy_loss_divides_squared_errors_by_the_square_root_of_the_number_of_atoms() -> None:
    pred, true = random_batch()
    natom = (pred["numbers"].numpy() != 0).sum(-1)
    error = pred["energy"].numpy() - true["energy"].numpy()
    found = energy_loss_fn(pred, true).item()
    assert found == pytest.approx(np.mean(error**2 / np.sqrt(natom)), rel=1e-12)


@pytest.mark.parametrize("name", ["forces", "charges", "spin_charges"])
def test_a_per_atom_loss_is_the_mean_squared_error_over_components_of_real_atoms(name: str) -> None:
    pred, true = random_batch()
    real = pred["numbers"].numpy() != 0
    error = (pred[name].numpy() - true[name].numpy())[real]
    found = peratom_loss_fn(pred, true, key_pred=name, key_true=name).item()
    assert found == pytest.approx(np.mean(error**2), rel=1e-12)


MASK_SHAPES = [(6,), (6, 1), (6, 5), (6, 5, 1)]
MASKED = [(name, shape) for name in ALL for shape in MASK_SHAPES[: None if LABELS[name].per_atom else 2]]


@pytest.mark.parametrize(("name", "mask_shape"), MASKED)
def test_the_mean_covers_labeled_and_unmasked_components(name: str, mask_shape: tuple[int, ...]) -> None:
    label = LABELS[name]
    pred, true = random_batch()
    rng = np.random.default_rng(3)
    mask = rng.random(mask_shape) < 0.6
    mask.flat[0] = True
    true[f"{name}_mask"] = torch.from_numpy(mask)
    true[name][torch.from_numpy(rng.random(true[name].shape) < 0.3)] = math.nan

    p, t = pred[name].numpy(), true[name].numpy()
    natom = (pred["numbers"].numpy() != 0).sum(-1)
    terms = []
    for where in np.ndindex(*t.shape):
        allowed = mask[where[: 2 if len(mask_shape) > 1 and mask_shape[1] == 5 else 1]].all()
        real = not label.per_atom or pred["numbers"][where[0], where[1]] != 0
        if allowed and real and np.isfinite(t[where]):
            square = (p[where] - t[where]) ** 2
            terms.append(square / np.sqrt(natom[where[0]]) if name == "energy" else square)
    assert terms
    alone = MTLoss({name: component(name, 3.0)})
    assert alone(pred, true)["loss"].item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_weights_are_divided_by_their_sum() -> None:
    pred, true = random_batch()
    losses = all_labels()(pred, true)
    total = sum(WEIGHTS.values())
    for name in ("forces", "charges"):
        alone = peratom_loss_fn(pred, true, key_pred=name, key_true=name)
        assert losses[name].item() == pytest.approx(alone.item() * WEIGHTS[name] / total, rel=1e-12)
    assert losses["loss"].item() == pytest.approx(sum(losses[name].item() for name in ALL), rel=1e-12)
    assert set(losses) == {*ALL, "loss"}


@pytest.mark.parametrize("where", ["pred", "true"])
def test_energies_of_shape_b1_and_b_give_the_same_loss(where: str) -> None:
    pred, true = random_batch()
    row = energy_loss_fn(pred, true)
    side = pred if where == "pred" else true
    side["energy"] = side["energy"].unsqueeze(-1)
    assert torch.equal(energy_loss_fn(pred, true), row)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_loss_has_the_dtype_of_the_prediction(precision: torch.dtype) -> None:
    pred, true = random_batch()
    other = torch.float32 if precision is torch.float64 else torch.float64
    pred |= {name: pred[name].to(precision) for name in ALL}
    losses = all_labels()(pred, {name: x.to(other) for name, x in true.items()})
    assert {loss.dtype for loss in losses.values()} == {precision}


# ---- several batches -------------------------------------------------------------------------------


def rows_of(part: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
    return {name: x[torch.from_numpy(rows)] for name, x in part.items()}


def pooled_loss(parts: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], world: int = 1) -> dict[str, float]:
    """Return the published loss and components of these batches, each shared by a number of ranks."""
    loss = all_labels()
    ranks = [ErrorSums(built_in(*ALL), 2, "cpu", POOLED.quantities, loss=loss.terms) for _ in range(world)]
    for pred, true in parts:
        shares = np.array_split(np.arange(len(pred["numbers"])), world)
        for sums, rows in zip(ranks, shares, strict=True):
            share, labels = rows_of(pred, rows), rows_of(true, rows)
            if not len(rows):
                # A rank without structures evaluates one of another rank, without labels.
                first = np.zeros(1, dtype=int)
                share = rows_of(pred, first)
                labels = {name: torch.full_like(x, math.nan) for name, x in rows_of(true, first).items()}
            fidelity = torch.zeros(len(share["numbers"]), dtype=torch.int64)
            sums.update(share, labels, share["numbers"], fidelity, loss(share, labels))
    total = np.sum([sums.snapshot().wait()[Slot.EPOCH] for sums in ranks], axis=0)
    values = statistics(total, built_in(*ALL), ("a", "b"), POOLED, loss.terms)
    return {name: value for name, value in values.items() if name.startswith("loss")}


def numpy_loss(pred: dict[str, Tensor], true: dict[str, Tensor]) -> dict[str, float]:
    """Return the loss and its components over all structures at once."""
    real = pred["numbers"].numpy() != 0
    found: dict[str, float] = {}
    for name in ALL:
        p, t = pred[name].double().numpy(), true[name].double().numpy()
        counted = np.isfinite(t)
        if name == "energy":
            counted &= real.any(-1)
            scale = np.sqrt(np.maximum(real.sum(-1), 1))
        else:
            atoms = real if LABELS[name].per_atom else real.any(-1)
            counted &= (atoms if t.ndim == atoms.ndim else atoms[..., None]) & np.ones_like(counted)
            scale = np.ones(())
        if counted.any():
            found[f"loss_{name}"] = float(((p - t) ** 2 / scale)[counted].mean())
    if found:
        total = sum(WEIGHTS.values())
        found["loss"] = sum(WEIGHTS[name] / total * found[f"loss_{name}"] for name in ALL if f"loss_{name}" in found)
    return found


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    structures=st.integers(1, 12),
    missing=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    split=st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 3])),
    precision=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_loss_depends_neither_on_batch_size_nor_order_nor_number_of_ranks(
    seed: int, structures: int, missing: float, split: tuple[int, int], precision: torch.dtype
) -> None:
    size, world = split
    pred, true = random_batch(seed % 1000, max(structures, 2))
    rng = np.random.default_rng(seed)
    pred |= {name: pred[name].to(precision) for name in ALL}
    for name in ALL:
        true[name] = true[name].to(precision)
        true[name][torch.from_numpy(rng.random(true[name].shape) < missing)] = math.nan
    order = rng.permutation(len(pred["numbers"]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    found = pooled_loss([(rows_of(pred, rows), rows_of(true, rows)) for rows in batches], world)
    assert found == pytest.approx(numpy_loss(pred, true), rel=1e-6 if precision is torch.float32 else 1e-9)


def test_a_function_without_sum_and_count_is_weighted_by_labeled_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimnet2mult.train.loss.own", lambda y_pred, y_true: y_pred["energy"].mean(), raising=False)
    loss = MTLoss({"energy": component("energy", 1.0), "own": {"fn": f"{MODULE}.own", "weight": 3.0}})
    pred, true = random_batch()
    for name in ALL:
        true[name][[1, 4]] = math.nan
    losses = loss(pred, true)
    (_, value), (_, count) = losses.sums_and_counts.tolist()  # type: ignore[attr-defined]
    assert count == 4
    assert value / count == pytest.approx(losses["own"].item() / 0.75, rel=1e-12)
    (_, _), (_, none) = loss(pred, {}).sums_and_counts.tolist()  # type: ignore[attr-defined]
    assert none == 0


# ---- what does not count ---------------------------------------------------------------------------

Edit = Callable[[dict[str, Tensor], dict[str, Tensor], float], None]


def poison_padding(pred: dict[str, Tensor], true: dict[str, Tensor], value: float) -> None:
    pad = pred["numbers"] == 0
    for name in ("forces", "charges", "spin_charges"):
        pred[name][pad] = value
        true[name][pad] = value


def poison_masked_atoms(pred: dict[str, Tensor], true: dict[str, Tensor], value: float) -> None:
    for name in ("forces", "charges"):
        true[f"{name}_mask"] = torch.ones(6, 5, dtype=torch.bool)
        true[f"{name}_mask"][3, 1:4] = False
        pred[name][3, 1:4] = value
        true[name][3, 1:4] = value


def poison_masked_structures(pred: dict[str, Tensor], true: dict[str, Tensor], value: float) -> None:
    for name in ALL:
        true[f"{name}_mask"] = torch.tensor([[1], [1], [0], [1], [0], [1]])
        pred[name][[2, 4]] = value
        true[name][[2, 4]] = value


def poison_predictions_without_a_label(pred: dict[str, Tensor], true: dict[str, Tensor], value: float) -> None:
    for name in ALL:
        true[name][4] = math.nan
        pred[name][4] = value
    true["forces"][2, 1, 2] = math.nan
    pred["forces"][2, 1, 2] = value


def poison_a_structure_of_padding(pred: dict[str, Tensor], true: dict[str, Tensor], value: float) -> None:
    pred["numbers"][5] = 0
    for name in ALL:
        pred[name][5] = value
        true[name][5] = value


EDITS: list[Edit] = [
    poison_padding,
    poison_masked_atoms,
    poison_masked_structures,
    poison_predictions_without_a_label,
    poison_a_structure_of_padding,
]


@pytest.mark.parametrize("value", POISON[1:])
@pytest.mark.parametrize("edit", EDITS)
def test_excluded_components_change_no_bit_of_loss_or_gradient(edit: Edit, value: float) -> None:
    results = []
    for filling in (POISON[0], value):
        pred, true = random_batch()
        edit(pred, true, filling)
        results.append(with_gradients(pred, true))
    (losses, gradients), (poisoned_losses, poisoned_gradients) = results
    assert math.isfinite(losses["loss"].item())
    for name in (*ALL, "loss"):
        assert torch.equal(losses[name], poisoned_losses[name]), name
    for name in ALL:
        assert torch.equal(gradients[name], poisoned_gradients[name]), name


def test_unlabeled_structures_do_not_affect_the_others() -> None:
    pred, true = random_batch()
    kept = [0, 1, 3, 5]
    _, alone = with_gradients({k: x[kept] for k, x in pred.items()}, {k: x[kept] for k, x in true.items()})
    for name in ALL:
        true[name][[2, 4]] = math.nan
    _, together = with_gradients(pred, true)
    for name in ALL:
        assert torch.equal(together[name][kept], alone[name])
        assert not together[name][[2, 4]].any()


@pytest.mark.parametrize("how", ["NaN", "infinite", "masked", "absent", "padding"])
def test_a_batch_without_any_label_gives_a_loss_and_gradients_of_exactly_zero(how: str) -> None:
    pred, true = random_batch()
    if how == "absent":
        true = {}
    elif how == "padding":
        pred["numbers"].zero_()
    elif how == "masked":
        true |= {f"{name}_mask": torch.zeros(6) for name in ALL}
    else:
        true = {name: torch.full_like(x, float(how[:3])) for name, x in true.items()}
    losses, gradients = with_gradients(pred, true)
    assert all(loss.item() == 0 for loss in losses.values())
    assert set(gradients) == set(ALL)
    assert not any(gradient.any() for gradient in gradients.values())


def test_an_absent_label_does_not_affect_the_others() -> None:
    pred, true = random_batch()
    del true["spin_charges"]
    del pred["spin_charges"]
    losses = all_labels()(pred, true)
    assert losses["spin_charges"].item() == 0
    assert losses["loss"].item() == pytest.approx(sum(losses[n].item() for n in ALL if n != "spin_charges"), rel=1e-12)


def test_a_counted_nan_prediction_makes_its_component_and_the_total_nan() -> None:
    pred, true = random_batch()
    pred["charges"][3, 0] = math.nan
    losses = all_labels()(pred, true)
    assert {name for name in losses if math.isnan(losses[name].item())} == {"charges", "loss"}


def test_nothing_is_read_from_the_device() -> None:
    pred, true = random_batch()
    poison_masked_structures(pred, true, math.nan)
    del true["spin_charges"]
    leaves = {name: pred[name].requires_grad_() for name in ALL}
    with no_host_reads():
        all_labels()({**pred, **leaves}, true)["loss"].backward()


# ---- misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"a": {"fn": f"{MODULE}.energy_los_fn", "weight": 1}}, "has no energy_los_fn; did you mean .*energy_loss_fn"),
        ({"a": {"fn": "no_such_module.fn", "weight": 1}}, "cannot import no_such_module"),
        ({"a": {"fn": "energy_loss_fn", "weight": 1}}, "'energy_loss_fn'; expected a dotted path"),
        ({"a": {"fn": None, "weight": 1}}, "expected a dotted path"),
        ({"a": {"fn": "..loss.fn", "weight": 1}}, "expected a dotted path"),
        ({"a": {"fn": f"{MODULE}.peratom_loss_fn", "weight": 1}}, "missing a required argument: 'key_pred'"),
        (
            {"a": {"fn": f"{MODULE}.energy_loss_fn", "weight": 1, "kwargs": {"kee": 1}}},
            "unexpected keyword argument 'kee'",
        ),
        ({"a": {"fn": f"{MODULE}.MTLoss", "weight": 1}}, "which is not a function of y_pred and y_true"),
        ({"a": {"fn": f"{MODULE}.__name__", "weight": 1}}, "which is not a function of y_pred and y_true"),
        ({"a": {"weight": 1}}, "component 'a' has no 'fn'"),
        ({"a": {"fn": f"{MODULE}.energy_loss_fn"}}, "component 'a' has no 'weight'"),
        ({"a": {"fn": f"{MODULE}.energy_loss_fn", "wieght": 1, "weight": 1}}, "has an unknown key 'wieght'"),
        (
            {"a": component("energy", -1.0)},
            "loss component 'a' is -1.0; expected a finite number of at least 0, or pairs",
        ),
        ({"a": component("energy", math.nan)}, "is nan; expected a finite number"),
        ({"a": component("energy", "1")}, "is '1'; expected a finite number"),
        ({"a": component("energy", 0.0)}, "expected at least one above 0"),
        ({}, "expected at least one above 0"),
        ({"loss": component("energy", 1.0)}, "cannot be named 'loss'"),
    ],
)
def test_an_invalid_component_is_rejected_at_construction(components, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MTLoss(components)


def test_a_component_of_weight_zero_contributes_zero() -> None:
    pred, true = random_batch()
    both = MTLoss({"e": component("energy", 2.0), "f": component("forces", 0.0)})(pred, true)
    assert both["f"].item() == 0
    assert both["loss"].item() == energy_loss_fn(pred, true).item()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p, t: p.pop("charges"),
            "loss component 'charges': the model returns no 'charges'; it returns numbers, e",
        ),
        (lambda p, t: p.pop("numbers"), "loss component 'energy': the model must return the atomic numbers"),
        (lambda p, t: p.update(energy=torch.ones(6, 6)), r"prediction 'energy' has shape \(6, 6\); expected \(6,\)"),
        (lambda p, t: t.update(energy=torch.ones(1)), r"the label 'energy' has shape \(1,\); expected \(6,\)"),
        (lambda p, t: t.update(charges=torch.ones(6, 5, 3)), r"the label 'charges' has shape \(6, 5, 3\)"),
        (lambda p, t: t.update(energy_mask=torch.ones(6, 5)), r"the mask 'energy_mask' has shape \(6, 5\)"),
        (lambda p, t: t.update(forces_mask=torch.ones(6, 5, 3)), r"the mask 'forces_mask' has shape \(6, 5, 3\)"),
    ],
)
def test_an_invalid_argument_is_named_in_the_error(change, message: str) -> None:
    pred, true = random_batch()
    change(pred, true)
    with pytest.raises(ConfigError, match=message):
        all_labels()(pred, true)


# ---- several ranks ---------------------------------------------------------------------------------


class OneOfTwo(Communicator):
    """A communicator that records the tensors to reduce, and replaces them with given sums."""

    world_size = 2

    def __init__(self) -> None:
        self.own: list[Tensor] = []
        self.sums: list[Tensor] = []

    def all_reduce_sum(self, tensor: Tensor) -> None:
        self.own.append(tensor.clone())
        if self.sums:
            tensor.copy_(self.sums.pop(0))


def shares(split: int) -> tuple[list[tuple[dict[str, Tensor], dict[str, Tensor]]], dict[str, Tensor]]:
    """Return the two parts of a batch, the second without spin charges, and the losses of the whole."""
    pred, true = random_batch()
    true["spin_charges"][split:] = math.nan
    true["forces_mask"] = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    whole = all_labels()(pred, true)
    parts = [slice(split), slice(split, None)]
    return [({k: x[p] for k, x in pred.items()}, {k: x[p] for k, x in true.items()}) for p in parts], whole


@pytest.mark.parametrize("split", [1, 4])
def test_the_mean_of_the_ranks_losses_is_the_loss_of_the_whole_batch(split: int) -> None:
    parts, whole = shares(split)
    first = []
    for pred, true in parts:
        loss, ranks = all_labels(), OneOfTwo()
        loss.use_ranks(ranks)
        loss(pred, true)
        first.append(ranks.own)
    sums = [sum(each) for each in zip(*first, strict=True)]
    # All counts are reduced at once.
    assert len(sums) == 1
    losses = []
    for pred, true in parts:
        loss, ranks = all_labels(), OneOfTwo()
        ranks.sums = list(sums)  # type: ignore[arg-type]
        loss.use_ranks(ranks)
        losses.append(loss(pred, true))
    for name, value in whole.items():
        both = (losses[0][name] + losses[1][name]) / 2
        assert both.item() == pytest.approx(value.item(), rel=1e-12), name


def test_a_loss_function_without_sum_and_count_is_not_reduced_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, true = random_batch()
    monkeypatch.setattr("aimnet2mult.train.loss.own", lambda y_pred, y_true: y_pred["energy"].mean(), raising=False)
    loss, ranks = MTLoss({"own": {"fn": f"{MODULE}.own", "weight": 1.0}}), OneOfTwo()
    loss.use_ranks(ranks)
    assert loss(pred, true)["loss"].item() == pytest.approx(pred["energy"].mean().item())
    assert ranks.own == []


def test_a_loss_function_without_sum_and_count_is_unchanged_next_to_one_that_is_reduced_over_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aimnet2mult.train.loss.own", lambda y_pred, y_true: y_pred["energy"].mean(), raising=False)
    components = {"energy": component("energy", 1.0), "own": {"fn": f"{MODULE}.own", "weight": 3.0}}
    pred, true = random_batch()
    alone, shared, ranks = MTLoss(components), MTLoss(components), OneOfTwo()
    shared.use_ranks(ranks)
    shared(pred, true)
    # Both ranks have the same share.
    ranks.sums = [2 * own for own in ranks.own]
    assert shared(pred, true)["own"].item() == pytest.approx(alone(pred, true)["own"].item(), rel=1e-12)
