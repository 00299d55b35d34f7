"""Names, units and values of the metrics computed from error sums, and which are absent."""

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from aimnet2mult.metrics.layout import Layout, LossTerms
from aimnet2mult.metrics.statistics import BATCH, POOLED, VALIDATION, MetricInfo, metric_info, statistics
from aimnet2mult.quantities import LABELS
from support.labels import built_in

ALL = tuple(LABELS)


def slot_of(true: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return a slot with one label, energy, of one fidelity, summed batch by batch of 1000 values."""
    slot = np.zeros(Layout(labels=built_in("energy"), fidelities=1).cells)
    for start in range(0, len(true), 1000):
        t, e = true[start : start + 1000], error[start : start + 1000]
        parts = (e**2, np.ones_like(e), np.abs(e), t, t**2, np.zeros_like(e), e**2)
        slot[:7] += [part.sum() for part in parts]
    return slot


def r2(true: np.ndarray, error: np.ndarray) -> float | None:
    return statistics(slot_of(true, error), built_in("energy"), ["fid0"], VALIDATION).get("E_r2")


def test_names_are_in_display_order() -> None:
    assert list(metric_info(built_in(*ALL), ["gfn1", "fid1"], BATCH)) == [
        "loss",
        "E_rmse",
        "F_rmse",
        "q_rmse",
        "s_rmse",
    ]
    assert list(metric_info(built_in("energy", "charges"), ["gfn1", "fid1"], POOLED, ["energy", "q"])) == [
        *("loss", "loss_energy", "loss_q", "E_rmse", "q_rmse", "E_atom_rmse"),
        *("gfn1/E_rmse", "gfn1/q_rmse", "gfn1/E_atom_rmse"),
        *("fid1/E_rmse", "fid1/q_rmse", "fid1/E_atom_rmse"),
        "skipped_steps",
    ]
    assert list(metric_info(built_in("energy"), ["fid0", "fid1"], VALIDATION)) == [
        *("loss", "E_rmse", "E_mae", "E_r2", "E_atom_rmse"),
        *("fid0/E_rmse", "fid0/E_mae", "fid0/E_r2", "fid0/E_atom_rmse"),
        *("fid1/E_rmse", "fid1/E_mae", "fid1/E_r2", "fid1/E_atom_rmse"),
        "skipped_structures",
    ]


def test_a_single_fidelity_has_no_separate_metrics() -> None:
    names = ["loss", "F_rmse", "F_mae", "F_r2", "skipped_structures"]
    assert list(metric_info(built_in("forces"), ["gfn1"], VALIDATION)) == names


def test_errors_have_the_units_of_their_labels_and_ratios_none() -> None:
    info = metric_info(built_in(*ALL), ["a", "b"], VALIDATION)
    energy = partial(MetricInfo, source_unit="eV/particle", unit="kcal/mol", better="lower")
    assert info["E_mae"] == energy(text="MAE of energy")
    assert info["b/F_rmse"] == MetricInfo(
        source_unit="eV/particle/angstrom", unit="kcal/mol/Å", text="RMSE of forces, b", better="lower"
    )
    per_atom = {"source_unit": "eV/particle/atom", "unit": "kcal/mol/atom"}
    assert info["E_atom_rmse"] == energy(text="RMSE of energy per atom", **per_atom)
    assert info["loss"] == MetricInfo(source_unit="1", unit="1", text="loss", better="lower")
    assert {info[name].unit for name in info if name.endswith("r2")} == {"1"}


def test_only_r2_is_better_when_higher() -> None:
    info = metric_info(built_in(*ALL), ["a", "b"], VALIDATION)
    assert {name for name in info if info[name].better == "higher"} == {name for name in info if name.endswith("_r2")}
    assert {each.better for name, each in info.items() if name != "skipped_structures"} == {"lower", "higher"}


def test_components_of_the_loss_belong_to_all_streams_but_that_of_single_batches() -> None:
    components = ["energy", "extra"]
    for selection, expected in ((BATCH, []), (POOLED, components), (VALIDATION, components)):
        names = metric_info(built_in("charges"), ["gfn1"], selection, components)
        assert [name for name in names if name.startswith("loss_")] == [f"loss_{name}" for name in expected]


@pytest.mark.parametrize("selection", [BATCH, POOLED, VALIDATION])
def test_declared_and_computed_metrics_are_the_same(selection) -> None:
    loss = LossTerms(names=("one", "two"), weights=(0.25, 0.75))
    layout = Layout(labels=built_in(*ALL), fidelities=3, quantities=selection.quantities, loss=loss)
    slot = np.random.default_rng(0).random(layout.cells) + 2
    slot[1 :: len(layout.quantities)] = 1e6
    names = ["fid0", "fid1", "fid2"]
    values = statistics(slot, built_in(*ALL), names, selection, loss)
    described = metric_info(built_in(*ALL), names, selection, loss.names)
    assert set(values) <= set(described)
    # No values have these sums, so R² may be absent, but nothing else.
    assert {n for n in described if "_r2" not in n} <= set(values)


def test_metrics_without_counted_components_are_absent() -> None:
    loss = LossTerms(names=("one", "two"), weights=(0.25, 0.75))
    layout = Layout(labels=built_in(*ALL), fidelities=2, loss=loss)
    assert statistics(np.zeros(layout.cells), built_in(*ALL), ["a", "b"], VALIDATION, loss) == {"skipped_structures": 0}


@pytest.mark.parametrize(
    ("sums", "counts", "expected"),
    [
        ([3.0, 8.0, 0.0], [2, 4, 0], {"loss": 0.25 * 1.5 + 0.75 * 2.0, "loss_one": 1.5, "loss_two": 2.0}),
        ([3.0, 0.0, 0.0], [2, 0, 0], {"loss": 0.25 * 1.5, "loss_one": 1.5}),
        # A loss without components, whose value was weighted by structures.
        ([0.0, 0.0, 9.0], [0, 0, 6], {"loss": 1.5}),
        ([math.nan, 8.0, 0.0], [2, 4, 0], {"loss": math.nan, "loss_one": math.nan, "loss_two": 2.0}),
        ([0.0, 0.0, 0.0], [0, 0, 0], {}),
    ],
)
def test_the_loss_is_the_weighted_sum_of_the_means_of_what_was_counted(
    sums: list[float], counts: list[float], expected: dict[str, float]
) -> None:
    loss = LossTerms(names=("one", "two"), weights=(0.25, 0.75))
    layout = Layout(labels=built_in("energy"), fidelities=1, quantities=POOLED.quantities, loss=loss)
    slot = np.array([0.0] * layout.errors + [*sums, *counts, 3])
    found = statistics(slot, built_in("energy"), ["fid0"], POOLED, loss)
    assert found == pytest.approx({**expected, "skipped_steps": 3}, nan_ok=True)


def test_a_loss_of_which_only_components_of_weight_zero_were_counted_is_absent() -> None:
    loss = LossTerms(names=("one", "two"), weights=(0.0, 1.0))
    layout = Layout(labels=built_in("energy"), fidelities=1, quantities=BATCH.quantities, loss=loss)
    slot = np.array([0.0] * layout.errors + [3.0, 0.0, 0.0, 2, 0, 0, 0])
    assert statistics(slot, built_in("energy"), ["fid0"], BATCH, loss) == {}


def test_a_single_value_has_an_error_but_no_r2() -> None:
    values = statistics(slot_of(np.array([2.0]), np.array([0.5])), built_in("energy"), ["fid0"], VALIDATION)
    assert values == {"E_rmse": 0.5, "E_mae": 0.5, "E_atom_rmse": 0.5, "skipped_structures": 0}


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.56789, 1e30])
def test_equal_labels_have_no_r2_despite_rounding(value: float) -> None:
    assert r2(np.full(12345, value), np.full(12345, 0.3)) is None


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e2, 1e3])
def test_r2_is_accurate_to_1e_9_if_the_mean_is_up_to_a_thousand_times_the_spread(mean: float) -> None:
    rng = np.random.default_rng(1)
    true = mean + rng.normal(size=100_000)
    error = 0.3 * rng.normal(size=true.size)
    exact = 1 - math.fsum(error**2) / math.fsum((true - math.fsum(true) / true.size) ** 2)
    assert r2(true, error) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_non_finite_sums_raise_no_warning(bad: float) -> None:
    with np.errstate(over="ignore"):
        slot = slot_of(np.array([1.0, 2.0]), np.array([0.5, bad]))
    values = statistics(slot, built_in("energy"), ["fid0"], VALIDATION)
    assert not math.isfinite(values["E_rmse"])
    assert not math.isfinite(values["E_r2"])


def test_a_slot_of_another_layout_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(12,\); 1 labels, 1 fidelities and 0 loss components need \(6,\)"):
        statistics(np.zeros(12), built_in("energy"), ["fid0"], BATCH)


def test_statistics_do_not_import_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import aimnet2mult.metrics.statistics"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
