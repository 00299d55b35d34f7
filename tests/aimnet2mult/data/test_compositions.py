"""Structures are grouped by their number of atoms of each element."""

import numpy as np
import pytest

from aimnet2mult.data.compositions import Compositions, join_symbols

WATER, METHANE, SALT = [8, 1, 1, 0, 0], [1, 6, 1, 1, 1], [17, 11, 0, 0, 0]


def test_the_order_of_atoms_and_padding_do_not_matter() -> None:
    found = Compositions.of([np.array([WATER, METHANE]), np.array([[0, 1, 8, 1], [1, 1, 0, 8]]), np.array([SALT])])
    assert found.elements == (1, 6, 8, 11, 17)
    per_structure = found.counts[found.index].tolist()
    assert per_structure == [[2, 0, 1, 0, 0], [4, 1, 0, 0, 0], *[[2, 0, 1, 0, 0]] * 2, [0, 0, 0, 1, 1]]
    assert found.structures[found.index].tolist() == [3, 1, 3, 3, 1]
    some = found.select(np.array([True, False, True, False, False]))
    assert (some.elements, some.counts.tolist(), some.index.tolist()) == ((1, 8), [[2, 1]], [0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_means_and_medians_agree_with_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers, values = rng.integers(0, 3, (30, 3)), rng.normal(size=30)
    found = Compositions.of([numbers])
    for composition in range(len(found.counts)):
        own = values[found.index == composition]
        assert found.mean(values)[composition] == pytest.approx(np.mean(own))
        assert found.median(values)[composition] == pytest.approx(np.median(own))


def test_formulas_have_carbon_and_hydrogen_first() -> None:
    found = Compositions.of([np.array([[8, 7, 6, 1, 1], WATER, SALT])])
    assert [found.formula(composition) for composition in found.index] == ["CH2NO", "H2O", "ClNa"]


def test_elements_without_a_symbol_are_numbers() -> None:
    assert join_symbols([1, 118, 119]) == "H, Og, 119"
