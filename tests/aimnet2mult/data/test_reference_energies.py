"""Reference energies agree with an independent least-squares fit, and their files are checked."""

from pathlib import Path

import numpy as np
import pytest
from aimnet.data import SizeGroupedDataset
from hypothesis import example, given
from hypothesis import strategies as st

from aimnet2mult.data.reference_energies import apply_sae, elements, fit_sae, read_sae, write_sae
from aimnet2mult.errors import DataError

TRUE = {1: -13.6, 6: -1030.0, 8: -2040.5}


def composed(energies: dict[int, float], *, structures: int = 60, noise: float = 0.0) -> SizeGroupedDataset:
    """Return structures of 3 and 5 atoms, the latter partly padded, with the given atomic energies."""
    rng = np.random.default_rng(5)
    table = np.zeros(64)
    table[list(energies)] = list(energies.values())
    groups = {}
    for atoms in (3, 5):
        numbers = rng.choice(list(energies), size=(structures, atoms))
        if atoms == 5:
            numbers[::2, -1] = 0
        groups[atoms] = {
            "numbers": numbers,
            "energy": table[numbers].sum(axis=1) + noise * rng.normal(size=structures),
        }
    return SizeGroupedDataset(groups)


def trimmed_least_squares(dataset: SizeGroupedDataset) -> dict[int, float]:
    """Fit by normal equations, exclude outliers, and fit again; independent of the implementation."""
    rows = [
        (numbers, energy) for g in dataset.groups for numbers, energy in zip(g["numbers"], g["energy"], strict=True)
    ]
    kinds = sorted({int(z) for numbers, _ in rows for z in numbers if z})

    def fit(chosen: list[tuple[np.ndarray, float]]) -> np.ndarray:
        counts = np.array([[list(numbers).count(z) for z in kinds] for numbers, _ in chosen], float)
        return np.linalg.solve(counts.T @ counts, counts.T @ np.array([energy for _, energy in chosen]))

    first = dict(zip(kinds, fit(rows), strict=True))
    left = [energy - sum(first[int(z)] for z in numbers if z) for numbers, energy in rows]
    low, high = np.quantile(left, [0.02, 0.98])
    second = fit([row for row, rest in zip(rows, left, strict=True) if low < rest < high])
    return dict(zip(kinds, second.tolist(), strict=True))


def test_sums_over_atoms_are_fitted_exactly() -> None:
    assert fit_sae(composed(TRUE)) == pytest.approx(TRUE, rel=1e-10)


def test_the_fit_agrees_with_an_independent_one() -> None:
    dataset = composed(TRUE, noise=0.7)
    assert fit_sae(dataset) == pytest.approx(trimmed_least_squares(dataset), rel=1e-10)


def test_missing_energies_are_ignored() -> None:
    dataset = composed(TRUE, noise=0.7)
    without = fit_sae(SizeGroupedDataset({n: g.sample(np.arange(4, len(g))) for n, g in dataset.items()}))
    for group in dataset.groups:
        group["energy"][:4] = [np.nan, np.inf, -np.inf, np.nan]
    assert fit_sae(dataset) == without


def test_an_outlier_hardly_moves_the_fit() -> None:
    dataset = composed(TRUE, noise=1e-3)
    dataset.groups[0]["energy"][7] += 1e6
    assert fit_sae(dataset) == pytest.approx(TRUE, abs=0.01)


def test_an_element_only_in_outliers_keeps_the_value_of_the_first_fit() -> None:
    dataset = composed(TRUE, noise=1e-3)
    group = dataset.groups[0]
    group["numbers"][:2] = [9, 1, 1]
    group["energy"][:2] = 4000.0, 6000.0
    fitted = fit_sae(dataset)
    assert list(fitted) == [1, 6, 8, 9]
    assert fitted[9] == pytest.approx(5000.0 - 2 * TRUE[1], abs=1)


def test_an_element_without_any_energy_is_an_error_that_names_it() -> None:
    dataset = composed(TRUE)
    group = dataset.groups[0]
    group["numbers"][3], group["energy"][3] = [17, 1, 1], np.nan
    with pytest.raises(DataError, match=r"elements \[17\]"):
        fit_sae(dataset)


def test_padding_is_not_an_element() -> None:
    assert elements(composed(TRUE)) == [1, 6, 8]


def test_subtraction_keeps_the_precision_of_float64() -> None:
    numbers = np.array([[8, 8, 0]])
    dataset = SizeGroupedDataset({3: {"numbers": numbers, "energy": np.array([-2e6 + 1e-7])}})
    apply_sae(dataset, {8: -1e6, 1: 5.0})
    assert dataset[3]["energy"][0] == pytest.approx(1e-7, rel=1e-2)


def test_an_element_without_a_reference_energy_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"elements \[6, 8\].*energies for \[1, 7\]"):
        apply_sae(composed(TRUE), {1: -13.6, 7: -1.0})


def test_all_notations_of_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sae.yaml"
    path.write_text("8: -2041\n1: -1361e-2\n6: -1.03e3\n")
    assert read_sae(path) == {1: -13.61, 6: -1030.0, 8: -2041.0}


@example({1: 5e-324, 2: 1e16, 3: -0.0})
@given(st.dictionaries(st.integers(1, 118), st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_energies_are_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, sae: dict[int, float]) -> None:
    path = tmp_path_factory.mktemp("sae") / "sae.yaml"
    write_sae(path, sae)
    assert read_sae(path) == sae


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: -13.6\n6: .nan\n", r"element 6 is nan"),
        ("1: -.inf\n", r"element 1 is -inf"),
        ("1: [2]\n", r"element 1 is \[2\]"),
        ("1: low\n", r"element 1 is 'low'"),
        ("1: true\n", r"element 1 is True"),
        ("H: -13.6\n", r"'H' is not an atomic number"),
        ("0: 0.0\n", r"0 is not an atomic number"),
        ("", r"expected lines `atomic number: energy in eV`"),
        ("- 1\n- 2\n", r"expected lines `atomic number: energy in eV`"),
        ("1: [\n", r"not YAML"),
    ],
)
def test_an_invalid_file_is_an_error_with_the_problem(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sae.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_sae(path)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.yaml: No such file"):
        read_sae(tmp_path / "absent.yaml")
    with pytest.raises(DataError, match="cannot write"):
        write_sae(tmp_path / "no" / "such" / "folder.yaml", {1: 1.0})


def test_a_file_is_written_in_place_with_its_mode_and_through_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.yaml", tmp_path / "link.yaml"
    target.touch(mode=0o600)
    link.symlink_to(target)
    write_sae(link, {1: -13.5})
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert read_sae(target) == {1: -13.5}
