"""Reference energies agree with an independent least-squares fit, and their files are checked."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aimnet.data import SizeGroupedDataset
from hypothesis import example, given
from hypothesis import strategies as st

from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.reference_energies import check_references, fit_sae, read_sae, sum_references, write_sae
from aimnet2mult.errors import DataError

Group = Mapping[str, Any]

TRUE = {1: -13.6, 6: -1030.0, 8: -2040.5}


def fit(groups: Iterable[Group], source: str = "data") -> dict[int, float]:
    """Fit the finite energies of groups."""
    known = [(group, np.isfinite(group["energy"])) for group in groups]
    compositions = Compositions.of(group["numbers"][rows] for group, rows in known)
    return fit_sae(compositions, np.concatenate([group["energy"][rows] for group, rows in known]), source)


def content_of(groups: Mapping[int, Group]) -> FileContent:
    """Return the content of a file with these groups."""
    scan = ContentScan(())
    for atoms, group in groups.items():
        scan.start(f"{atoms:03d}", atoms, len(group["energy"]))
        scan.add(0, {key: group[key] for key in ("numbers", "energy")}, np.zeros(len(group["energy"]), np.bool_))
    return scan.finish()


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
    assert fit(composed(TRUE).groups) == pytest.approx(TRUE, rel=1e-10)


def test_the_fit_agrees_with_an_independent_one() -> None:
    dataset = composed(TRUE, noise=0.7)
    assert fit(dataset.groups) == pytest.approx(trimmed_least_squares(dataset), rel=1e-10)


def test_missing_energies_are_ignored() -> None:
    dataset = composed(TRUE, noise=0.7)
    without = fit([{key: values[4:] for key, values in g.to_dict().items()} for g in dataset.groups])
    for group in dataset.groups:
        group["energy"][:4] = [np.nan, np.inf, -np.inf, np.nan]
    assert fit(dataset.groups) == without


def test_an_outlier_hardly_moves_the_fit() -> None:
    dataset = composed(TRUE, noise=1e-3)
    dataset.groups[0]["energy"][7] += 1e6
    assert fit(dataset.groups) == pytest.approx(TRUE, abs=0.01)


def test_an_element_only_in_outliers_keeps_the_value_of_the_first_fit() -> None:
    dataset = composed(TRUE, noise=1e-3)
    group = dataset.groups[0]
    group["numbers"][:2] = [9, 1, 1]
    group["energy"][:2] = 4000.0, 6000.0
    fitted = fit(dataset.groups)
    assert list(fitted) == [1, 6, 8, 9]
    assert fitted[9] == pytest.approx(5000.0 - 2 * TRUE[1], abs=1)


ELEMENTS = {"h": 1, "c": 6, "n": 7, "o": 8, "a": 11, "l": 17}
Formulas = list[tuple[str, list[float]]]


def group_of(structures: Formulas, *, seed: int = 1) -> dict[str, np.ndarray]:
    """Return structures in random order, given as letters (h for hydrogen, …) and the energies of each composition."""
    rows = [(letters, energy) for letters, energies in structures for energy in energies]
    order = np.random.default_rng(seed).permutation(len(rows))
    numbers = np.zeros((len(rows), max(len(letters) for letters, _ in rows)), int)
    for row, (letters, _) in enumerate(rows):
        numbers[row, : len(letters)] = [
            {"h": 1, "c": 6, "n": 7, "o": 8, "a": 11, "l": 17}[letter] for letter in letters
        ]
    return {"numbers": numbers[order], "energy": np.array([energy for _, energy in rows])[order]}


def left_of(group: Mapping[str, np.ndarray], sae: dict[int, float]) -> np.ndarray:
    """Return the energies less reference energies, structure by structure."""
    return np.array(
        [
            energy - sum(sae[int(z)] for z in row if z)
            for row, energy in zip(group["numbers"], group["energy"], strict=True)
        ]
    )


def plain_least_squares(group: Mapping[str, np.ndarray]) -> dict[int, float]:
    """Fit all structures once."""
    kinds = sorted({int(z) for z in group["numbers"].flat if z})
    counts = np.array([[(row == z).sum() for z in kinds] for row in group["numbers"]], float)
    return dict(zip(kinds, np.linalg.pinv(counts) @ group["energy"], strict=True))


WATER = -2079.0


def water_with_ions(number: int = 980, ions: int = 20) -> Formulas:
    """Return water, its dimer, and a few ions, which alone tell H from O."""
    rng = np.random.default_rng(0)

    def around(mean: float, size: int) -> list[float]:
        return (mean + rng.normal(0, 0.1, size)).tolist()

    return [
        ("ohh", around(WATER, number)),
        ("ohhohh", around(2 * WATER - 0.2, number)),
        ("oh", around(WATER + 16.9, ions)),
        ("ohhh", around(WATER - 7.2, ions)),
    ]


def test_compositions_that_alone_separate_two_elements_are_not_trimmed_away() -> None:
    group = group_of(water_with_ions())
    fitted = fit([group])
    atoms = (group["numbers"] > 0).sum(axis=1)
    left = left_of(group, fitted)
    assert fitted == pytest.approx(plain_least_squares(group), abs=0.2)
    assert fitted == pytest.approx({1: -12.05, 8: -2055.0}, abs=1)
    assert np.abs([left[atoms == number].mean() for number in (2, 3, 4, 6)]).max() < 6
    assert np.sqrt(np.mean(left[(atoms == 3) | (atoms == 6)] ** 2)) < 0.2


def test_an_outlier_among_these_compositions_does_not_spoil_the_fit() -> None:
    structures = water_with_ions()
    undisturbed = fit([group_of(structures)])
    structures[3][1][0] += 1e4
    assert fit([group_of(structures)]) == pytest.approx(undisturbed, abs=0.5)


def test_an_outlier_with_a_composition_of_its_own_does_not_spoil_the_fit() -> None:
    structures = water_with_ions()
    undisturbed = fit([group_of(structures)])
    structures.append(("oohhhhh", [2 * WATER + 1e4]))
    assert fit([group_of(structures)]) == pytest.approx(undisturbed, abs=0.5)


def test_few_structures_are_fitted_as_well_as_by_plain_least_squares() -> None:
    """With five structures, trimming leaves three, too few for four elements."""
    energies = [-1090.0, -2079.5, -1539.0, -3086.3, -3553.1]
    structures = [
        (name, [energy]) for name, energy in zip(["chhhh", "ohh", "nhhh", "co", "nno"], energies, strict=True)
    ]
    group = group_of(structures)
    best = np.abs(left_of(group, plain_least_squares(group))).max()
    assert np.abs(left_of(group, fit([group]))).max() < 2 * best + 1e-6


@pytest.mark.parametrize("number", [1, 2, 3, 100])
def test_with_one_composition_the_mean_remains_zero_and_a_warning_names_the_elements(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    group = group_of([("ohh", (WATER + np.linspace(-0.1, 0.1, number) if number > 1 else np.array([WATER])).tolist())])
    fitted = fit([group], "waters.h5")
    assert abs(left_of(group, fitted).mean()) < 0.06
    assert fitted == pytest.approx(plain_least_squares(group), abs=0.1)
    (message,) = caplog.messages
    assert message.startswith("waters.h5: the compositions do not separate the reference energies of H, O; ")


def test_elements_in_a_constant_proportion_do_not_disturb_the_others(caplog: pytest.LogCaptureFixture) -> None:
    energy = {"h": -13.6, "c": -1030.0, "o": -2042.0, "a": -4415.0, "l": -12520.0}
    names = ["chhhh", "cchhhhhh", "oh", "oco", "al", "aallo", "alohh"]
    fitted = fit([group_of([(name, [sum(energy[letter] for letter in name)] * 3) for name in names])])
    assert [fitted[z] for z in (1, 6, 8)] == pytest.approx([-13.6, -1030.0, -2042.0])
    assert fitted[11] + fitted[17] == pytest.approx(-4415.0 - 12520.0)
    (message,) = caplog.messages
    assert "of Na, Cl;" in message


def test_independent_proportions_are_named_separately(caplog: pytest.LogCaptureFixture) -> None:
    fit([group_of([("ohh", [WATER] * 3), ("al", [-17000.0] * 3), ("ohhal", [-19100.0] * 3)])])
    assert [message.partition("energies of ")[2].partition(";")[0] for message in caplog.messages] == ["H, O", "Na, Cl"]


def test_separated_elements_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    fit(composed(TRUE, noise=0.7).groups)
    fit([group_of(water_with_ions())])
    assert not caplog.messages


def test_an_element_in_a_single_structure_fits_it_exactly() -> None:
    rng = np.random.default_rng(2)
    common = [(name, rng.normal(energy, 0.3, 500).tolist()) for name, energy in (("chhhh", -1090.0), ("cchh", -2100.0))]
    group = group_of([*common, ("chhhl", [-13600.0])])
    assert left_of(group, fit([group]))[group["numbers"].max(axis=1) == 17] == pytest.approx(0, abs=0.2)


def test_the_result_does_not_depend_on_the_division_into_groups() -> None:
    group = group_of(water_with_ions())
    parts = [{key: values[rows] for key, values in group.items()} for rows in (slice(700), slice(700, None))]
    assert fit(parts) == pytest.approx(fit([group]), rel=1e-12)


def test_an_element_that_occurs_only_without_an_energy_needs_no_reference_energy() -> None:
    dataset = composed(TRUE)
    group = dataset.groups[0]
    group["numbers"][3], group["energy"][3] = [17, 1, 1], np.nan
    fitted = fit(dataset.groups)
    assert fitted == pytest.approx(TRUE)
    content = content_of(dict(dataset.items()))
    check_references(content, content.good, fitted)
    left = group["energy"] - sum_references(group["numbers"], fitted)
    assert np.abs(np.delete(left, 3)).max() < 1e-6


def test_without_any_energy_the_fit_is_an_error_that_names_the_file() -> None:
    with pytest.raises(DataError, match=r"a\.h5: .*no structure has an energy"):
        fit([{"numbers": np.array([[1, 1]]), "energy": np.array([np.nan])}], "a.h5")


def test_subtraction_agrees_bit_for_bit_with_aimnet() -> None:
    """A resumed run of an earlier version finds the same energies."""
    dataset, expected = composed(TRUE, noise=0.7), composed(TRUE, noise=0.7)
    sae = {1: -13.587, 6: -1029.81, 8: -2041.1}
    expected.apply_peratom_shift("energy", "energy", sap_dict={**sae, 0: 0.0})
    for group, shifted in zip(dataset.groups, expected.groups, strict=True):
        assert np.array_equal(group["energy"] - sum_references(group["numbers"], sae), shifted["energy"])
        # Also if structures are read one by one.
        single = [sum_references(group["numbers"][[row]], sae)[0] for row in range(len(group))]
        assert np.array_equal(group["energy"] - single, shifted["energy"])


def test_subtraction_keeps_the_precision_of_float64() -> None:
    numbers = np.array([[8, 8, 0]])
    assert -2e6 + 1e-7 - sum_references(numbers, {8: -1e6, 1: 5.0})[0] == pytest.approx(1e-7, rel=1e-2)


def test_an_element_without_a_reference_energy_is_an_error_that_names_it() -> None:
    content = content_of({3: {"numbers": np.array([[8, 1, 1], [6, 1, 1], [1, 1, 1]]), "energy": np.zeros(3)}})
    message = (
        r"v\.h5: no reference energy for C, O in 2 structures of group 003; there are reference energies for H, N;"
    )
    with pytest.raises(DataError, match=message):
        check_references(content, content.good, {1: -13.6, 7: -1.0}, "v.h5")
    check_references(content, np.array([False, False, True]), {1: -13.6, 7: -1.0}, "v.h5")


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
        ("1: [\n", r"cannot read .*: line 2: "),
        ("119: -3.0\n", r"119 is not an atomic number"),
        ("99999999999: -3.0\n", r"99999999999 is not an atomic number"),
        ("1: " + "9" * 5000, r"is not an integer of up to 64 bits"),
        ("1: 2020-13-45\n", r"element 1 is '2020-13-45'"),
        ("[" * 2000, r"nested more than 50 deep"),
        ("1: -13.6\n" + "#" * 1_000_000, r"larger than 1 MB"),
        ("&a [" + "&b [x, x], *b, *b]\n", r"expected lines `atomic number: energy in eV`"),
        ("!!python/object/apply:os.system ['touch ran']\n", r"the tag .*os.system.* is not allowed"),
    ],
)
def test_an_invalid_file_is_an_error_with_the_problem(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sae.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_sae(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_a_named_pipe_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sae.yaml")
    with pytest.raises(DataError, match=r"cannot read the reference energies .*sae.yaml: it is not a regular file"):
        read_sae(tmp_path / "sae.yaml")


def test_a_link_is_followed(tmp_path: Path) -> None:
    write_sae(tmp_path / "sae.yaml", {1: -13.5})
    (tmp_path / "link.yaml").symlink_to("sae.yaml")
    assert read_sae(tmp_path / "link.yaml") == {1: -13.5}


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
