"""Error sums agree with NumPy over real atoms and present labels, and never wait for the device."""

import gc
import io
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.layout import LossTerms
from aimnet2mult.metrics.losses import Losses
from aimnet2mult.metrics.statistics import BATCH, POOLED, VALIDATION, Selection, statistics
from aimnet2mult.quantities import LABELS as BUILT_IN
from aimnet2mult.quantities import Label
from support.host_reads import no_host_reads

TENSORS = Label(
    name="tensors", abbr="T", per_atom=True, components=2, source_unit="1", unit="1", text="a declared label"
)
LABELS = {**BUILT_IN, "tensors": TENSORS}
ALL = tuple(LABELS)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU]),
]
GARBAGE = (math.nan, math.inf, -math.inf, 1e30)
FOREVER = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- batches of every kind ------------------------------------------------------------------------


def labels_of(*names: str) -> tuple[Label, ...]:
    """Return the labels with these names."""
    return tuple(LABELS[name] for name in names)


@dataclass(frozen=True, kw_only=True)
class Batch:
    pred: dict[str, Tensor]
    true: dict[str, Tensor]
    numbers: Tensor
    fidelity: Tensor
    loss: Tensor | None = None

    def add_to(self, sums: ErrorSums, device: str = "cpu") -> None:
        sums.update(
            {name: x.to(device) for name, x in self.pred.items()},
            {name: x.to(device) for name, x in self.true.items()},
            self.numbers.to(device),
            self.fidelity.to(device),
            None if self.loss is None else {"loss": self.loss.to(device)},
        )


def missing_labels(draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw which components have no label: none, single ones, whole structures, all, or a mixture."""
    missing = np.zeros(shape, dtype=bool)
    if draw(st.booleans()):
        missing |= rng.random(shape) < 0.3
    if draw(st.booleans()):
        missing[rng.random(shape[0]) < 0.4] = True
    if draw(st.sampled_from([False] * 9 + [True])):
        missing[...] = True
    return missing


@st.composite
def arrays(
    draw: st.DrawFn,
    name: str,
    *,
    rng: np.random.Generator,
    numbers: np.ndarray,
    unlabeled: np.ndarray | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Draw predictions and labels of one name, and perhaps a mask."""
    label = LABELS[name]
    shape = label.shape(*numbers.shape)
    t = rng.integers(-64, 65, shape) / 8
    p = t + rng.normal(size=shape) * draw(st.sampled_from([1e-6, 1.0, 1e3]))
    missing = missing_labels(draw, rng, shape)
    if unlabeled is not None:
        missing[unlabeled] = True
    t[missing] = np.nan
    # An infinite label does not count either.
    t[missing & (rng.random(shape) < 0.1)] = np.inf

    covered = missing.copy()
    covered[numbers == 0 if label.per_atom else (numbers == 0).all(-1)] = True
    masks = {}
    kind = draw(st.sampled_from(["none", "B", "B1", *(["BN", "BN1"] if label.per_atom else [])]))
    if kind != "none":
        mask = rng.random(numbers.shape if "N" in kind else numbers.shape[:1]) < 0.6
        covered[~mask] = True
        dtype = draw(st.sampled_from([np.bool_, np.uint8, np.float64]))
        masks[f"{name}_mask"] = torch.from_numpy((mask[..., None] if "1" in kind else mask).astype(dtype))
    if draw(st.booleans()):
        junk = covered & ~missing
        t[junk] = rng.choice(GARBAGE, junk.sum())
        p[covered] = rng.choice(GARBAGE, covered.sum())
    one = label.components == 1
    p, t = (x[..., None] if one and draw(st.booleans()) else x for x in (p, t))
    return torch.from_numpy(p), torch.from_numpy(t), masks


@st.composite
def batches(draw: st.DrawFn, labels: Sequence[str], fidelities: int) -> Batch:
    """Draw a batch of float64, with masks, missing labels and garbage of every kind.

    Hypothesis draws what a batch consists of, a seed the numbers in it. True values are multiples of
    1/8, so that their spread is either none or resolved, as R² needs it to be.
    """
    structures, atoms = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    numbers = rng.integers(1, 100, (structures, atoms))
    # Padding after the atoms, between them, or a whole structure.
    numbers[rng.random(numbers.shape) < draw(st.sampled_from([0.0, 0.4]))] = 0
    if draw(st.booleans()):
        numbers[rng.integers(structures)] = 0
    fidelity = rng.integers(0, fidelities, structures)
    # One fidelity is missing from the batch, or has no labels in it.
    without = draw(st.none() | st.tuples(st.integers(0, fidelities - 1), st.sampled_from(labels)))

    pred: dict[str, Tensor] = {}
    true: dict[str, Tensor] = {}
    for name in labels:
        if draw(st.sampled_from([True] * 9 + [False])):
            unlabeled = fidelity == without[0] if without is not None and without[1] == name else None
            drawn = arrays(name, rng=rng, numbers=numbers, unlabeled=unlabeled)
            pred[name], true[name], masks = draw(drawn)
            true |= masks
    loss = draw(st.none() | st.floats(-1e3, 1e3))
    return Batch(
        pred=pred,
        true=true,
        numbers=torch.from_numpy(numbers),
        fidelity=torch.from_numpy(fidelity),
        loss=None if loss is None else torch.tensor(loss, dtype=torch.float64),
    )


# ---- the reference: structure by structure, atom by atom ------------------------------------------


def counted_values(batch: Batch, name: str, fidelity: int | None) -> tuple[list[float], list[float], list[int]]:
    """Return prediction, label and number of atoms of every component that counts."""
    label = LABELS[name]
    pred, true, natom = [], [], []
    if name not in batch.true:
        return pred, true, natom
    numbers = batch.numbers.numpy()
    structures, atoms = numbers.shape
    shape = (*label.shape(structures, atoms), 1)[: 3 if label.per_atom else 2]
    p, t = batch.pred[name].numpy().reshape(shape), batch.true[name].numpy().reshape(shape)
    mask = batch.true[f"{name}_mask"].numpy() if f"{name}_mask" in batch.true else None
    for b in range(structures):
        if fidelity is not None and int(batch.fidelity[b]) != fidelity:
            continue
        real = np.flatnonzero(numbers[b])
        allowed = np.ones(atoms, dtype=bool)
        if mask is not None:
            # One flag per structure or per atom.
            allowed &= mask[b].reshape(-1).astype(bool)
        rows = [(p[b, a], t[b, a], allowed[a]) for a in real] if label.per_atom else []
        if not label.per_atom and len(real):
            rows = [(p[b], t[b], allowed[0])]
        for predicted, labeled, allow in rows:
            chosen = np.isfinite(labeled) & allow
            pred += list(predicted[chosen])
            true += list(labeled[chosen])
            natom += [len(real)] * int(chosen.sum())
    return pred, true, natom


def reference(
    pooled: Sequence[Batch], labels: Sequence[str], fidelity: int | None, prefix: str = ""
) -> dict[str, float]:
    """Compute every metric of these batches at once with NumPy."""
    out = {}
    for name in labels:
        parts = [counted_values(batch, name, fidelity) for batch in pooled]
        p, t, natom = (np.array([x for part in parts for x in part[i]]) for i in range(3))
        if not len(p):
            continue
        abbr = prefix + LABELS[name].abbr
        out[f"{abbr}_rmse"] = np.sqrt(np.mean((p - t) ** 2))
        out[f"{abbr}_mae"] = np.mean(np.abs(p - t))
        if len(p) > 1 and np.ptp(t) > 0:
            out[f"{abbr}_r2"] = 1 - np.sum((p - t) ** 2) / np.sum((t - np.mean(t)) ** 2)
        if name == "energy":
            out[f"{abbr}_atom_rmse"] = np.sqrt(np.mean(((p - t) / natom) ** 2))
    return out


def labeled_structures(batch: Batch) -> int:
    labels = [array.numpy() for name, array in batch.true.items() if not name.endswith("_mask")]
    return sum(any(not np.isnan(array[b]).all() for array in labels) for b in range(len(batch.numbers)))


def expected(pooled: Sequence[Batch], labels: Sequence[str], fidelities: int) -> dict[str, float]:
    out = reference(pooled, labels, None)
    # A loss without sums and counts is weighted by the number of structures with any label.
    losses = [(batch.loss.item(), labeled_structures(batch)) for batch in pooled if batch.loss is not None]
    if number := sum(structures for _, structures in losses):
        out["loss"] = sum(loss * structures for loss, structures in losses) / number
    if fidelities > 1:
        for index in range(fidelities):
            out |= reference(pooled, labels, index, prefix=f"fid{index}/")
    return out


def computed(sums: ErrorSums, slot: Slot, selection: Selection = VALIDATION) -> dict[str, float]:
    names = [f"fid{index}" for index in range(sums.layout.fidelities)]
    slots = sums.snapshot().wait()
    values = statistics(slots[slot], sums.labels, names, selection, sums.layout.loss)
    return {name: value for name, value in values.items() if not name.startswith("skipped")}


def assert_agree(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12 if "_r2" in name else 0), name


# ---- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@settings(FOREVER, max_examples=150)
@given(data=st.data())
def test_every_metric_agrees_with_numpy_over_real_atoms_and_present_labels(device: str, data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    fidelities = data.draw(st.integers(1, 3))
    drawn = data.draw(st.lists(batches(labels, fidelities), min_size=1, max_size=3))
    reset_before = data.draw(st.integers(0, len(drawn) - 1))
    sums = ErrorSums(labels_of(*labels), fidelities, device)
    for index, batch in enumerate(drawn):
        if index == reset_before:
            sums.reset(Slot.WINDOW)
        batch.add_to(sums, device)
        assert_agree(computed(sums, Slot.BATCH), expected([batch], labels, fidelities))
    assert_agree(computed(sums, Slot.WINDOW), expected(drawn[reset_before:], labels, fidelities))
    assert_agree(computed(sums, Slot.EPOCH), expected(drawn, labels, fidelities))


@pytest.mark.parametrize("device", DEVICES)
@settings(FOREVER, max_examples=50)
@given(data=st.data())
def test_rmses_do_not_depend_on_the_additional_sums_of_validation(device: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(batches(ALL, 2), min_size=1, max_size=3))
    sums = ErrorSums(labels_of(*ALL), 2, device, POOLED.quantities)
    for batch in drawn:
        batch.add_to(sums, device)
        rmses = {name: x for name, x in expected([batch], ALL, 2).items() if not name.endswith(("_mae", "_r2"))}
        assert_agree(computed(sums, Slot.BATCH, POOLED), rmses)
    rmses = {name: x for name, x in expected(drawn, ALL, 2).items() if not name.endswith(("_mae", "_r2"))}
    assert_agree(computed(sums, Slot.EPOCH, POOLED), rmses)


def padded(x: Tensor, atoms: int, per_atom: bool) -> Tensor:
    if not per_atom:
        return x
    out = torch.full((x.shape[0], atoms, *x.shape[2:]), math.nan, dtype=x.dtype)
    out[:, : x.shape[1]] = x
    return out


def random_batch(seed: int, structures: int, atoms: int, fidelities: int = 2, labels: Sequence[str] = ALL) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    shapes = {name: LABELS[name].shape(structures, atoms) for name in labels}
    draw = {"dtype": torch.float64, "generator": rng}
    true = {name: torch.randn(shape, **draw) for name, shape in shapes.items()}
    return Batch(
        pred={name: x + torch.randn(x.shape, **draw) for name, x in true.items()},
        true=true,
        numbers=torch.randint(1, 10, (structures, atoms), generator=rng),
        fidelity=torch.randint(0, fidelities, (structures,), generator=rng),
        loss=torch.rand((), **draw),
    )


def test_pooled_batches_equal_one_batch_of_all_structures() -> None:
    parts = [random_batch(seed, structures=seed + 2, atoms=3 + seed) for seed in range(4)]
    atoms = max(part.numbers.shape[1] for part in parts)

    def joined(pick: str) -> dict[str, Tensor]:
        return {
            name: torch.cat([padded(getattr(p, pick)[name], atoms, LABELS[name].per_atom) for p in parts])
            for name in ALL
        }

    numbers = [torch.nn.functional.pad(p.numbers, (0, atoms - p.numbers.shape[1])) for p in parts]
    whole = Batch(
        pred=joined("pred"),
        true=joined("true"),
        numbers=torch.cat(numbers),
        fidelity=torch.cat([p.fidelity for p in parts]),
        loss=torch.tensor(np.average([p.loss for p in parts], weights=[len(p.numbers) for p in parts])),
    )
    pooled, at_once = ErrorSums(labels_of(*ALL), 2), ErrorSums(labels_of(*ALL), 2)
    for part in parts:
        part.add_to(pooled)
    whole.add_to(at_once)
    assert_agree(computed(pooled, Slot.EPOCH), computed(at_once, Slot.BATCH))


def test_float32_predictions_and_labels_are_subtracted_in_float64() -> None:
    sums = ErrorSums(labels_of("energy"), 1)
    true = torch.tensor([1e6, 1e6])
    pred = torch.nextafter(true, torch.tensor(math.inf))
    sums.update({"energy": pred}, {"energy": true}, torch.ones(2, 1).long(), torch.zeros(2).long())
    assert computed(sums, Slot.BATCH)["E_rmse"] == float(pred[0].double() - true[0].double())


def test_many_small_errors_after_a_large_one_are_not_lost() -> None:
    sums = ErrorSums(labels_of("energy"), 1)
    numbers, fidelity = torch.ones(1, 1).long(), torch.zeros(1).long()
    errors = [1e3] + [1e-3] * 1000
    for error in errors:
        sums.update({"energy": torch.tensor([error])}, {"energy": torch.zeros(1)}, numbers, fidelity)
    exact = math.sqrt(math.fsum(float(np.float32(error)) ** 2 for error in errors) / len(errors))
    assert computed(sums, Slot.EPOCH)["E_rmse"] == pytest.approx(exact, rel=1e-15)


def test_without_labels_there_is_no_metric_and_no_loss() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    batch = random_batch(0, 3, 2)
    sums.update(batch.pred, {}, batch.numbers, batch.fidelity, {"loss": torch.tensor(2.0)})
    assert computed(sums, Slot.BATCH) == {}


# ---- non-finite values -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ALL)
def test_a_non_finite_prediction_affects_only_its_own_label_and_fidelity(name: str, bad: float) -> None:
    good, spoilt = (ErrorSums(labels_of(*ALL), 3, "cpu", POOLED.quantities) for _ in range(2))
    batch = random_batch(1, structures=12, atoms=4, fidelities=3)
    assert set(batch.fidelity.tolist()) == {0, 1, 2}
    batch.add_to(good)
    batch.pred[name][(batch.fidelity == 1).nonzero()[0]] = bad
    batch.add_to(spoilt)
    before, after = computed(good, Slot.WINDOW, POOLED), computed(spoilt, Slot.WINDOW, POOLED)
    assert set(before) == set(after)
    changed = {key for key in before if before[key] != after[key]}
    abbr = LABELS[name].abbr
    kinds = {"rmse"} | ({"atom_rmse"} if name == "energy" else set())
    assert changed == {f"{prefix}{abbr}_{kind}" for prefix in ("", "fid1/") for kind in kinds}
    assert not any(math.isfinite(after[key]) for key in changed)


def test_a_nan_loss_stays_nan_until_the_slot_is_reset() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    for seed, loss in enumerate([1.0, math.nan, 3.0]):
        batch = random_batch(seed, 2, 2)
        sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, {"loss": torch.tensor(loss)})
    assert computed(sums, Slot.BATCH)["loss"] == 3.0
    assert math.isnan(computed(sums, Slot.WINDOW)["loss"])
    sums.reset(Slot.WINDOW)
    batch.add_to(sums)
    assert computed(sums, Slot.WINDOW)["loss"] == pytest.approx(batch.loss.item())


# ---- the loss --------------------------------------------------------------------------------------

TERMS = LossTerms(names=("energy", "forces"), weights=(0.75, 0.25))


def losses_of(sums: list[float], counts: list[float]) -> Losses:
    return Losses({"loss": torch.tensor(1e9)}, torch.tensor([sums, counts], dtype=torch.float64))


def test_the_components_of_the_loss_are_pooled_over_batches() -> None:
    sums = ErrorSums(labels_of(*ALL), 2, "cpu", POOLED.quantities, loss=TERMS)
    batch = random_batch(0, 3, 2)
    for parts in (([3.0, 8.0], [2, 10]), ([5.0, 0.0], [4, 0]), ([1.0, 4.0], [1, 2])):
        sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses_of(*parts))
    found = computed(sums, Slot.EPOCH, POOLED)
    energy, forces = 9 / 7, 12 / 12
    assert {name: found[name] for name in ("loss", "loss_energy", "loss_forces")} == pytest.approx(
        {"loss": 0.75 * energy + 0.25 * forces, "loss_energy": energy, "loss_forces": forces}, rel=1e-15
    )
    assert computed(sums, Slot.BATCH, POOLED)["loss"] == 0.75 * 1.0 + 0.25 * 2.0


# ---- skipped steps and structures ------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_a_skipped_step_is_only_counted_in_window_and_epoch(device: str) -> None:
    sums, without = (ErrorSums(labels_of(*ALL), 2, device, POOLED.quantities) for _ in range(2))
    applied, skipped = (torch.tensor(value, device=device) for value in (True, False))
    for seed, flag in enumerate((applied, skipped, None, skipped)):
        batch = random_batch(seed, 3, 2)
        if flag is skipped:
            batch.pred["forces"][0] = math.nan
        moved = [{name: x.to(device) for name, x in part.items()} for part in (batch.pred, batch.true)]
        arguments = (*moved, batch.numbers.to(device), batch.fidelity.to(device), {"loss": batch.loss.to(device)})
        sums.update(*arguments, applied=flag)
        if flag is not skipped:
            without.update(*arguments)
    assert math.isnan(computed(sums, Slot.BATCH, BATCH)["F_rmse"])
    assert computed(sums, Slot.BATCH, BATCH)["loss"] == pytest.approx(batch.loss.item())
    found, expected_slots = sums.snapshot().wait(), without.snapshot().wait()
    assert found[:, -1].tolist() == [0, 2, 2]
    np.testing.assert_array_equal(found[1:, :-1], expected_slots[1:, :-1])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_validation_leaves_out_and_counts_structures_without_finite_predictions(name: str, bad: float) -> None:
    batch = random_batch(1, structures=12, atoms=4)
    batch.true["charges"][3] = math.nan
    kept = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    good = ErrorSums(labels_of(*ALL), 2)
    parts = ({key: x[kept] for key, x in part.items()} for part in (batch.pred, batch.true))
    # A loss without sums and counts is weighted by the structures that are left.
    loss = {"loss": torch.tensor(3.0)}
    good.update(*parts, batch.numbers[kept], batch.fidelity[kept], loss)
    spoilt = ErrorSums(labels_of(*ALL), 2)
    batch.pred[name][[2, 7]] = bad
    # Without a label, this does not count.
    batch.pred["charges"][3] = bad
    assert spoilt.find_finite(batch.pred, batch.true, batch.numbers).nonzero().squeeze(-1).tolist() == kept
    spoilt.update(batch.pred, batch.true, batch.numbers, batch.fidelity, loss)
    for sums in (good, spoilt):
        random_batch(2, structures=5, atoms=3).add_to(sums)
    assert_agree(computed(spoilt, Slot.EPOCH), computed(good, Slot.EPOCH))
    assert spoilt.snapshot().wait()[Slot.EPOCH, -1] == 2


def test_labels_whose_structures_were_all_skipped_have_nan_metrics_and_so_has_the_loss() -> None:
    batch = random_batch(1, structures=8, atoms=3)
    batch.true["spin_charges"][:] = math.nan
    batch.true["forces"][batch.fidelity == 0] = math.nan
    batch.pred["forces"][:] = math.nan
    sums = ErrorSums(labels_of(*ALL), 2, loss=TERMS)
    sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses_of([1.0, 0.0], [2, 0]))
    found = computed(sums, Slot.EPOCH)
    nan = {name for name, value in found.items() if math.isnan(value)}
    assert {"F_rmse", "F_mae", "F_r2", "fid1/F_rmse", "loss"} <= nan
    assert {name for name in nan if not name.startswith("fid1/")} == {"F_rmse", "F_mae", "F_r2", "loss"}
    # Nothing else of the fidelity is left either.
    assert {"fid1/E_rmse", "fid1/E_atom_rmse", "fid1/q_mae"} <= nan
    assert math.isfinite(found["E_rmse"])
    assert not {"s_rmse", "fid0/s_rmse", "fid1/s_rmse", "fid0/F_rmse"} & set(found)


# ---- the last batch --------------------------------------------------------------------------------


def test_the_rmse_of_the_last_batch_is_by_label() -> None:
    sums = ErrorSums(labels_of(*ALL), 2, "cpu", POOLED.quantities)
    assert sums.batch_rmse() == {}
    for seed in range(2):
        batch = random_batch(seed, 4, 3)
        batch.true["spin_charges"][:] = math.nan
        batch.add_to(sums)
    found, wanted = sums.batch_rmse(), reference([batch], ALL, None)
    assert list(found) == [name for name in ALL if name != "spin_charges"]
    for name, value in found.items():
        assert value == pytest.approx(wanted[f"{LABELS[name].abbr}_rmse"], rel=1e-12)


# ---- misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charges": (3, 2, 3)}, r"the prediction of 'charges' has shape \(3, 2, 3\); expected \(3, 2\)"),
        ({"forces": (3, 2)}, r"the prediction of 'forces' has shape \(3, 2\); expected \(3, 2, 3\)"),
        ({"energy": (3, 3)}, r"the prediction of 'energy' has shape \(3, 3\); expected \(3,\)"),
        ({"energy": (1,)}, r"the prediction of 'energy' has shape \(1,\); expected \(3,\)"),
        ({"energy": ()}, r"the prediction of 'energy' has shape \(\); expected \(3,\)"),
        ({"true energy": (1, 3)}, r"the label of 'energy' has shape \(1, 3\); expected \(3,\)"),
        ({"true forces": (3, 3, 2)}, r"the label of 'forces' has shape \(3, 3, 2\)"),
        ({"true energy_mask": (3, 2)}, r"the mask of 'energy' has shape \(3, 2\); expected \(3,\), \(3, 1\)$"),
        (
            {"true forces_mask": (3, 2, 3)},
            r"mask of 'forces' has shape \(3, 2, 3\); expected \(3,\), \(3, 1\), \(3, 2\) or \(3, 2, 1\)",
        ),
        ({"fidelity": (3, 1)}, r"fidelity has shape \(3, 1\); expected \(3,\)"),
        ({"loss": (1,)}, r"loss has shape \(1,\); expected a scalar"),
        ({"sums": (2, 1)}, r"the sums and counts of the loss have shape \(2, 1\); expected \(2, 0\)"),
    ],
)
def test_a_wrong_shape_is_named(change: dict[str, tuple[int, ...]], message: str) -> None:
    batch = random_batch(0, structures=3, atoms=2)
    arguments: dict[str, Any] = {"fidelity": batch.fidelity, "loss": {"loss": batch.loss}}
    for key, shape in change.items():
        if key == "fidelity":
            arguments[key] = torch.zeros(shape, dtype=torch.int64)
        elif key == "loss":
            arguments[key] = {"loss": torch.zeros(shape)}
        elif key == "sums":
            arguments["loss"] = Losses({}, torch.zeros(shape))
        elif key.startswith("true "):
            batch.true[key.removeprefix("true ")] = torch.zeros(shape)
        else:
            batch.pred[key] = torch.zeros(shape)
    sums = ErrorSums(labels_of(*ALL), 2)
    with pytest.raises(ValueError, match=message):
        sums.update(batch.pred, batch.true, batch.numbers, **arguments)
    assert not sums.snapshot().wait().any()


def test_a_label_without_a_prediction_is_named() -> None:
    batch = random_batch(0, 3, 2)
    del batch.pred["charges"]
    with pytest.raises(ValueError, match="labels 'charges', but the model does not predict them"):
        batch.add_to(ErrorSums(labels_of(*ALL), 2))


@pytest.mark.parametrize("index", [-1, 2])
def test_an_out_of_range_fidelity_is_an_error_and_counted_nowhere(index: int) -> None:
    batch = random_batch(0, 3, 2)
    batch.fidelity[1] = index
    sums = ErrorSums(labels_of(*ALL), 2)
    with pytest.raises((IndexError, RuntimeError)):
        batch.add_to(sums)
    assert computed(sums, Slot.EPOCH) == {}


@pytest.mark.parametrize(
    ("labels", "fidelities", "message"),
    [
        (["energy", "energy"], 1, "each only once"),
        ([], 1, "expected at least one"),
        (["energy"], 0, "the number of fidelities is 0; expected at least 1"),
    ],
)
def test_labels_and_fidelities_are_checked_at_construction(labels: list[str], fidelities: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ErrorSums(labels_of(*labels), fidelities)


# ---- the state -------------------------------------------------------------------------------------


def test_restored_sums_continue_as_if_uninterrupted() -> None:
    drawn = [random_batch(seed, 4, 3) for seed in range(4)]
    whole, first = ErrorSums(labels_of(*ALL), 2), ErrorSums(labels_of(*ALL), 2)
    for batch in drawn:
        batch.add_to(whole)
    for batch in drawn[:2]:
        batch.add_to(first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ErrorSums(labels_of(*ALL), 2)
    second.load_state_dict(torch.load(file, weights_only=True))
    for batch in drawn[2:]:
        batch.add_to(second)
    np.testing.assert_array_equal(second.snapshot().wait(), whole.snapshot().wait())


def test_sums_saved_by_version_0_1_keep_their_errors_and_restart_the_loss() -> None:
    sums = ErrorSums(labels_of(*ALL), 2, "cpu", POOLED.quantities, loss=TERMS)
    batch = random_batch(0, 4, 3)
    sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses_of([1.0, 2.0], [3, 4]))
    errors = sums.state_dict()["sums"][:, : sums.layout.errors]
    # It saved the sum of the batch losses and the number of batches.
    old = {"labels": list(ALL), "fidelities": 2, "quantities": list(POOLED.quantities)}
    old["sums"] = torch.cat((errors, torch.tensor([[7.0, 1.0]] * 3, dtype=torch.float64)), 1)
    restored = ErrorSums(labels_of(*ALL), 2, "cpu", POOLED.quantities, loss=TERMS)
    random_batch(1, 4, 3).add_to(restored)
    restored.load_state_dict(old)
    found = restored.snapshot().wait()
    np.testing.assert_array_equal(found[:, : sums.layout.errors], errors)
    assert not found[:, sums.layout.errors :].any()


class Rank(Communicator):
    """One of several ranks, when all others have sums of zero."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size


@pytest.mark.parametrize(("rank", "counted"), [(0, 1), (1, 0)])
def test_a_step_skipped_by_all_ranks_is_counted_by_the_first(rank: int, counted: int) -> None:
    sums = ErrorSums(labels_of(*ALL), 2, "cpu", POOLED.quantities, communicator=Rank(rank, 2))
    batch = random_batch(0, 3, 2)
    sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, applied=torch.tensor(False))
    assert sums.snapshot().wait()[:, -1].tolist() == [0, counted, counted]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_restored_sums_are_the_total_of_any_number_of_ranks(world_size: int) -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    for seed in range(3):
        random_batch(seed, 4, 3).add_to(sums)
    state = sums.state_dict()
    for rank in range(world_size):
        restored = ErrorSums(labels_of(*ALL), 2, communicator=Rank(rank, world_size))
        random_batch(9, 4, 3).add_to(restored)
        restored.load_state_dict(state)
        expected = torch.zeros_like(state["sums"]) if rank else state["sums"]
        np.testing.assert_allclose(restored.snapshot().wait(), expected, rtol=1e-15)


class Twin(Rank):
    """The first of two ranks, whose other rank has the same sums."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def all_reduce_sum(self, tensor: Tensor) -> None:
        tensor.mul_(2)


def test_snapshot_and_state_are_the_total_of_all_ranks_and_leave_the_sums_of_this_one() -> None:
    alone, twin = ErrorSums(labels_of(*ALL), 2), ErrorSums(labels_of(*ALL), 2, communicator=Twin())
    for sums in (alone, twin):
        random_batch(0, 4, 3).add_to(sums)
    for _ in range(2):
        assert torch.equal(twin.state_dict()["sums"], 2 * alone.state_dict()["sums"])
        np.testing.assert_array_equal(twin.snapshot().wait(), 2 * alone.snapshot().wait())


def test_a_saved_state_is_a_copy() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    random_batch(0, 4, 3).add_to(sums)
    state = sums.state_dict()
    kept = state["sums"].clone()
    random_batch(1, 4, 3).add_to(sums)
    assert torch.equal(state["sums"], kept)


@pytest.mark.parametrize(
    ("labels", "rest"), [(ALL[:3], [2]), (ALL, [3]), (ALL[::-1], [2]), (ALL, [2, "cpu", POOLED.quantities])]
)
def test_the_state_of_other_sums_is_rejected(labels: tuple[str, ...], rest: list[Any]) -> None:
    state = ErrorSums(labels_of(*ALL), 2).state_dict()
    with pytest.raises(ValueError, match="the saved sums are for labels"):
        ErrorSums(labels_of(*labels), *rest).load_state_dict(state)


def test_a_reset_does_not_affect_the_other_slots() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    random_batch(0, 4, 3).add_to(sums)
    before = sums.snapshot().wait()
    sums.reset(Slot.WINDOW)
    after = sums.snapshot().wait()
    assert not after[Slot.WINDOW].any()
    np.testing.assert_array_equal(after[[Slot.BATCH, Slot.EPOCH]], before[[Slot.BATCH, Slot.EPOCH]])


@pytest.mark.parametrize("device", DEVICES)
def test_later_updates_do_not_change_a_snapshot(device: str) -> None:
    sums = ErrorSums(labels_of(*ALL), 2, device)
    random_batch(0, 4, 3).add_to(sums, device)
    kept = sums.snapshot().wait().copy()
    snapshots = []
    for seed in range(1, 40):
        snapshots.append(sums.snapshot())
        random_batch(seed, 4, 3).add_to(sums, device)
        sums.reset(Slot.WINDOW)
    np.testing.assert_array_equal(snapshots[0].wait(), kept)
    assert snapshots[0].done
    # The number of structures in the loss.
    epochs = [snapshot.wait()[Slot.EPOCH, -2] for snapshot in snapshots]
    assert epochs == list(range(4, 160, 4))


# ---- the device ------------------------------------------------------------------------------------


def masked(batch: Batch) -> Batch:
    structures, atoms = batch.numbers.shape
    batch.true["forces_mask"] = torch.ones(structures, atoms, 1, dtype=torch.bool)
    batch.true["energy_mask"] = torch.ones(structures, 1)
    batch.true["charges"][0] = math.nan
    batch.numbers[:, -1] = 0
    del batch.true["spin_charges"]
    return batch


def test_nothing_is_read_from_the_device() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    batch = masked(random_batch(0, 4, 3))
    with no_host_reads():
        sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, {"loss": batch.loss})
        snapshot = sums.snapshot()
        sums.reset(Slot.WINDOW)
    assert np.isfinite(snapshot.wait()).all()


@pytest.mark.gpu
@NO_GPU
def test_nothing_waits_for_the_gpu() -> None:
    sums = ErrorSums(labels_of(*ALL), 2, "cuda")
    batch = masked(random_batch(0, 4, 3))
    pred = {name: x.cuda() for name, x in batch.pred.items()}
    true = {name: x.cuda() for name, x in batch.true.items()}
    numbers, fidelity, loss = batch.numbers.cuda(), batch.fidelity.cuda(), batch.loss.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            sums.update(pred, true, numbers, fidelity, loss)
            snapshot = sums.snapshot()
            sums.reset(Slot.WINDOW)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(snapshot.wait()).all()


def test_no_graph_is_kept() -> None:
    sums = ErrorSums(labels_of("energy"), 1)
    weight = torch.ones(3, requires_grad=True)
    pred = weight * 2
    loss = pred.sum()
    labels, numbers = {"energy": torch.zeros(3)}, torch.ones(3, 1).long()
    sums.update({"energy": pred}, labels, numbers, torch.zeros(3).long(), {"loss": loss})
    snapshot = sums.snapshot()
    graph = weakref.ref(pred)
    del pred, loss
    gc.collect()
    assert graph() is None
    assert not torch.from_numpy(snapshot.wait()).requires_grad


def test_a_batch_can_be_added_in_inference_mode() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)
    with torch.inference_mode():
        random_batch(0, 4, 3).add_to(sums)
    random_batch(1, 4, 3).add_to(sums)
    assert computed(sums, Slot.EPOCH).keys() == computed(sums, Slot.BATCH).keys()


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    sums = ErrorSums(labels_of(*ALL), 2)

    def tensors_after(updates: int) -> tuple[int, int]:
        for seed in range(updates):
            random_batch(seed, 1 + seed % 7, 1 + seed % 5).add_to(sums)
        gc.collect()
        alive = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
        return len(alive), sum(x.numel() * x.element_size() for x in alive)

    assert tensors_after(2) == tensors_after(50)
