"""Outliers in energies and forces are found, named and limited to the worst."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.outliers import find_energy_outliers, find_force_outliers
from support.labels import built_in
from support.small_groups import make_group

Write = Callable[..., Path]
SAE = {1: -13.6, 6: -1036.0, 8: -2043.0}


def arrays(structures: int = 200, seed: int = 0) -> dict[str, Any]:
    """Return structures with total energies: a sum over atoms with a spread of 0.1 eV."""
    group = make_group(4, structures, labels=("energy", "forces"), seed=seed)
    group["energy"] = np.vectorize(SAE.get)(group["numbers"]).sum(axis=1) + 0.1 * group["energy"]
    return group


def warnings(path: Path) -> list[str]:
    report = check_files([path], labels=built_in("energy", "forces"))
    assert report.ok
    return [line.partition(", ")[2] for line in report.warnings.lines()]


def test_ordinary_data_have_no_outliers(write: Write) -> None:
    assert warnings(write({4: arrays()})) == []


def test_an_absurd_force_is_named(write: Write) -> None:
    group = arrays()
    group["forces"][17, 2] = 3e5, 0, -4e5
    assert warnings(write({4: group})) == ["group 004, row 17: force outlier, 5e+05 eV/Å"]


def test_the_ten_worst_energies_are_listed_worst_first(write: Write) -> None:
    group = arrays()
    group["energy"][:12] += 100.0 * np.arange(1, 13)
    found = warnings(write({4: group}))
    assert [int(line.split("row ")[1].split(":")[0]) for line in found[:10]] == list(range(11, 1, -1))
    assert found[0].startswith("group 004, row 11: energy outlier, 1200 eV from the median")
    assert len(found) == 11


def test_forces_up_to_twenty_times_the_upper_quartile_are_no_outliers() -> None:
    largest = np.ones(100, np.float32)
    largest[[3, 50, 70]] = 21, 19.9, 300
    assert find_force_outliers(largest).tolist() == [70, 3]
    # Small forces never are.
    assert find_force_outliers(largest / 10).tolist() == [70]
    largest[:70] = np.nan
    assert find_force_outliers(largest).tolist() == [70]
    assert find_force_outliers(np.full(5, np.nan, np.float32)).tolist() == []


@pytest.mark.parametrize(("spread", "limit"), [(1.0, 1.4826 * 50), (1e-6, 1.0)])
def test_energies_up_to_fifty_robust_standard_deviations_are_no_outliers(spread: float, limit: float) -> None:
    residuals = 7 + spread * np.tile([-1.0, 0.0, 1.0], 34)
    residuals[[10, 20, 30]] = 7 + np.array([-1.01, 0.99, 1.02]) * limit
    worst, deviation = find_energy_outliers(residuals)
    assert worst.tolist() == [30, 10]
    assert deviation[worst] == pytest.approx([1.02 * limit, -1.01 * limit])


def test_twenty_energies_can_have_outliers() -> None:
    residuals = np.zeros(20)
    residuals[4] = 1e3
    assert find_energy_outliers(residuals)[0].tolist() == [4]
    assert find_energy_outliers(residuals[:19])[0].tolist() == []


def test_energies_of_another_unit_among_others_are_outliers(write: Write) -> None:
    group = arrays()
    group["energy"][50] /= 27.2114
    (found,) = warnings(write({4: group}))
    assert found.startswith("group 004, row 50: energy outlier")


def test_missing_energies_and_forces_are_no_outliers(write: Write) -> None:
    group = arrays()
    group["energy"][:50], group["forces"][20:90] = np.nan, np.nan
    assert warnings(write({4: group})) == []
    nothing = {"energy": np.full(200, np.nan), "forces": np.full((200, 4, 3), np.nan)}
    report = check_files([write({4: group | nothing})], labels=built_in("energy", "forces"))
    assert [line.rpartition(" has ")[2] for line in report.warnings.lines()] == ["no energy or forces"]


@pytest.mark.parametrize("factor", [1.0, 1e40])
def test_infinite_values_are_missing(write: Write, factor: float) -> None:
    group = arrays()
    group["forces"][3, 1] = np.inf if factor == 1 else factor
    report = check_files([write({4: group})], labels=built_in("energy", "forces"))
    (line,) = report.warnings.lines()
    assert line.endswith("data.h5: 3 values of forces are infinite and treated as missing (group 004, row 3)")


def test_the_summary_agrees_with_numpy(write: Write) -> None:
    group, other = arrays(), arrays(50, seed=1)
    group["forces"][5] = np.nan
    group["energy"][:3] = np.nan
    group["charge"] = np.where(np.arange(200) == 9, 0.5, 0)
    other["numbers"][:, 3] = 0
    other["energy"] = np.vectorize({**SAE, 0: 0.0}.get)(other["numbers"]).sum(axis=1)
    summary = check_files([write({4: group, 5: pad(other)})], labels=built_in("energy", "forces", "charges")).files[0]
    assert (summary.groups, summary.structures, summary.bad_structures) == (2, 250, 1)
    assert (summary.atoms, summary.elements) == (199 * 4 + 50 * 3, [1, 6, 8])
    assert summary.labels == {"energy": 196 + 50, "forces": 198 + 50}
    forces = np.concatenate([np.delete(group["forces"], [5, 9], axis=0).ravel(), other["forces"][:, :3].ravel()])
    assert summary.force_rms == pytest.approx(np.sqrt(np.mean(forces**2)))
    low, high, rms = re.findall(r"-?\d+\.\d+", summary.energies)[:3]
    assert -0.1 < float(low) < 0 < float(high) < 0.1
    assert 0.08 < float(rms) < 0.12


def pad(group: dict[str, Any]) -> dict[str, Any]:
    """Append an atom that is padding."""
    padded = dict(group)
    for key in ("coord", "forces", "numbers"):
        padded[key] = np.pad(group[key], [(0, 0), (0, 1), *[(0, 0)] * (group[key].ndim - 2)])
    return padded
