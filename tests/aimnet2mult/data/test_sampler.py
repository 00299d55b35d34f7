"""Structures are drawn according to the weights, in an order that depends on the seed and the epoch only."""

import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.rank_share import BatchLoader
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.errors import DataError

MODES = ("molecules", "atoms")
Counts = Mapping[int, tuple[int, ...]]
Order = list[tuple[int, list[int]]]

# Structures of each fidelity by number of atoms; one group has no structure of fidelity 1.
COUNTS: Counts = {3: (40, 12), 4: (7, 30), 6: (25, 0), 9: (1, 1)}


def dataset(counts: Counts = COUNTS) -> DataSet:
    """Return groups with `numbers` of the right shape and `fidelity` in random order."""
    groups = {}
    for atoms, of_fidelity in counts.items():
        fidelity = np.repeat(np.arange(len(of_fidelity)), of_fidelity)
        groups[atoms] = {
            "numbers": np.ones((len(fidelity), atoms), np.int32),
            "fidelity": np.random.default_rng(atoms).permutation(fidelity),
            "row": np.arange(len(fidelity)),
        }
    return DataSet.of_arrays(groups)


def sampler(counts: Counts = COUNTS, **options: Any) -> MixedFidelitySampler:
    return MixedFidelitySampler(dataset(counts), **{"batch_size": 8, **options})


def order(drawn: MixedFidelitySampler, epoch: int = 0, start: int = 0) -> Order:
    drawn.set_epoch(epoch)
    drawn.set_start(start)
    return [(group, rows.tolist()) for ((group, rows),) in drawn]


def structures(batches: Order) -> Counter[tuple[int, int]]:
    return Counter((group, row) for group, rows in batches for row in rows)


def by_fidelity(batches: Order, counts: Counts = COUNTS) -> Counter[int]:
    data = dataset(counts)
    return Counter(int(data[group]["fidelity"][row]) for group, rows in batches for row in rows)


def everything(counts: Counts) -> set[tuple[int, int]]:
    return {(atoms, row) for atoms, n in counts.items() for row in range(sum(n))}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Counts, dict[str, Any]]:
    """Draw small data sets with up to three fidelities, and any settings for them."""
    fidelities = draw(st.integers(1, 3))
    number = st.integers(0, 12)
    counts = draw(st.dictionaries(st.integers(2, 9), st.tuples(*[number] * fidelities), min_size=1, max_size=5))
    counts = {atoms: n for atoms, n in counts.items() if sum(n)}
    present = sorted({f for n in counts.values() for f, count in enumerate(n) if count})
    weight = st.sampled_from([0.0, 0.1, 1.0, 2.5, 40.0])
    weights = draw(st.none() | st.fixed_dictionaries(dict.fromkeys(present, weight)))
    if not counts or (weights is not None and not any(weights.values())):
        counts, weights = {3: (4,)}, None
    options = {
        "batch_size": draw(st.integers(1, 20)),
        "batch_mode": draw(st.sampled_from(["atoms", "molecules"])),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
        "weights": weights,
    }
    return counts, options


@given(cases(), st.integers(0, 30))
@settings(deadline=None)
def test_every_pass_has_the_expected_shares_length_and_batch_sizes(
    case: tuple[Counts, dict[str, Any]], epoch: int
) -> None:
    counts, options = case
    drawn = sampler(counts, **options)
    batches = order(drawn, epoch)
    assert len(batches) == len(drawn)
    for group, rows in batches:
        size = len(rows) * (group if options["batch_mode"] == "atoms" else 1)
        assert len(rows) >= 1
        assert size <= options["batch_size"] or len(rows) == 1
    total = {f: sum(n[f] for n in counts.values()) for f in range(len(next(iter(counts.values()))))}
    found = by_fidelity(batches, counts)
    assert sum(found.values()) == sum(total.values())
    weights = options["weights"]
    if weights is None:
        assert structures(batches) == Counter(everything(counts))
        return
    for fidelity, weight in weights.items():
        assert abs(found[fidelity] - sum(total.values()) * weight / sum(weights.values())) < 1


@pytest.mark.parametrize("weights", [{0: 1, 1: 1}, {0: 1, 1: 5}, {1: 0.2}, {0: 0.0, 1: 3.0}])
@pytest.mark.parametrize("mode", ["atoms", "molecules"])
def test_over_many_epochs_the_fidelities_are_drawn_in_proportion_to_their_weights(
    weights: dict[int, float], mode: str
) -> None:
    drawn = sampler(weights=weights, batch_mode=mode, batch_size=16, batches_per_epoch=7)
    found = sum((by_fidelity(order(drawn, epoch)) for epoch in range(200)), Counter[int]())
    share = weights.get(1, 1) / (weights.get(0, 1) + weights.get(1, 1))
    assert found[1] / found.total() == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("weights", [{0: 1, 1: 1}, {0: 1, 1: 9}, {0: 30, 1: 1}])
def test_over_many_epochs_all_structures_of_a_fidelity_are_drawn_equally_often(weights: dict[int, float]) -> None:
    """This includes the group with only one structure of each fidelity."""
    drawn, data, epochs = sampler(weights=weights), dataset(), 150
    found = sum((structures(order(drawn, epoch)) for epoch in range(epochs)), Counter[tuple[int, int]]())
    for fidelity in (0, 1):
        times = [
            found[group, int(row)]
            for group in data.keys()  # noqa: SIM118 - not a dict
            for row in np.flatnonzero(data[group]["fidelity"] == fidelity)
        ]
        assert max(times) - min(times) <= 3, times
        assert min(times) > 0


def test_passes_draw_a_rare_fidelity_evenly_across_groups() -> None:
    """One structure per pass, from five in one group and one in another: each is drawn once in six passes."""
    counts = {3: (5, 6), 4: (1, 0)}
    drawn, data = sampler(counts, weights={0: 1, 1: 11}), dataset(counts)
    found = sum((structures(order(drawn, epoch)) for epoch in range(6)), Counter[tuple[int, int]]())
    first = {(group, row): n for (group, row), n in found.items() if data[group]["fidelity"][row] == 0}
    assert sorted(first.values()) == [1] * 6


def test_weights_equal_to_the_counts_draw_every_structure_once() -> None:
    weights = {f: sum(n[f] for n in COUNTS.values()) for f in (0, 1)}
    assert structures(order(sampler(weights=weights), 5)) == Counter(everything(COUNTS))


def test_a_batch_mixes_fidelities() -> None:
    mixed = [batch for batch in order(sampler()) if len(by_fidelity([batch])) > 1]
    assert len(mixed) > 5


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one, other = sampler(seed=2, weights={1: 3}), sampler(seed=2, weights={1: 3})
    later = [order(one, epoch) for epoch in range(4)]
    assert [order(other, epoch) for epoch in (3, 1, 0, 2)] == [later[epoch] for epoch in (3, 1, 0, 2)]
    assert order(sampler(seed=3, weights={1: 3})) != later[0]
    assert all(later[i] != later[j] for i in range(4) for j in range(i))
    groups = [[group for group, _ in batches] for batches in later]
    assert all(groups[i] != groups[j] for i in range(4) for j in range(i))


def test_the_order_is_independent_of_other_random_generators() -> None:
    first = order(sampler())
    np.random.default_rng(0).random(100)
    np.random.seed(1)  # noqa: NPY002  # the global generator must not matter
    assert order(sampler()) == first


@given(cases(), st.integers(0, 5), st.data())
@settings(deadline=None, max_examples=50)
def test_an_epoch_can_be_resumed_at_any_batch(
    case: tuple[Counts, dict[str, Any]], epoch: int, data: st.DataObject
) -> None:
    counts, options = case
    per_epoch = data.draw(st.none() | st.integers(1, 12))
    drawn = sampler(counts, **options, batches_per_epoch=per_epoch)
    whole = order(drawn, epoch)
    start = data.draw(st.integers(0, len(whole)))
    assert order(sampler(counts, **options, batches_per_epoch=per_epoch), epoch, start) == whole[start:]
    assert len(drawn) == len(whole)


def test_a_new_epoch_starts_at_its_first_batch() -> None:
    drawn = sampler()
    order(drawn, 0, start=5)
    drawn.set_epoch(1)
    assert len(list(drawn)) == len(drawn)


def test_an_iteration_in_progress_is_not_affected_by_a_later_epoch() -> None:
    """Loader workers request batches well ahead of the training."""
    drawn = sampler()
    expected = order(drawn, 0)
    drawn.set_epoch(0)
    batches = iter(drawn)
    begun = [next(batches)]
    drawn.set_epoch(1)
    assert [(group, rows.tolist()) for ((group, rows),) in (*begun, *batches)] == expected


@pytest.mark.parametrize("weights", [None, {0: 1, 1: 4}])
def test_a_short_epoch_continues_where_the_last_one_ended(weights: dict[int, float] | None) -> None:
    one_pass = [batch for epoch in range(3) for batch in order(sampler(weights=weights), epoch)]
    short = sampler(weights=weights, batches_per_epoch=5)
    assert len(short) == 5
    batches = [batch for epoch in range(len(one_pass) // 5) for batch in order(short, epoch)]
    assert batches == one_pass[: len(batches)]


def test_a_long_epoch_repeats_the_structures_in_another_order() -> None:
    length = len(sampler())
    batches = order(sampler(batches_per_epoch=2 * length + 3))
    assert len(batches) == 2 * length + 3
    first, second = batches[:length], batches[length : 2 * length]
    assert structures(first) == structures(second) == Counter(everything(COUNTS))
    assert first != second


@pytest.mark.parametrize("length", [None, 5])
def test_any_batch_can_be_looked_up_by_its_number_without_disturbing_the_iteration(length: int | None) -> None:
    drawn = sampler(batches_per_epoch=length, weights={0: 1, 1: 2})
    expected = [batch for epoch in range(3) for batch in order(drawn, epoch)]
    for index in reversed(range(len(expected))):
        group, rows = drawn.batch_at(index)
        assert (group, rows.tolist()) == expected[index]
    drawn.set_epoch(0)
    seen = []
    for ((group, rows),) in drawn:
        drawn.batch_at(len(expected) - 1)
        seen.append((group, rows.tolist()))
    assert seen == expected[: len(seen)]
    with pytest.raises(DataError, match="index is -1; expected an integer of at least 0"):
        drawn.batch_at(-1)


def test_without_shuffling_groups_and_structures_keep_their_order() -> None:
    batches = order(sampler(shuffle=False))
    assert [group for group, _ in batches] == sorted(group for group, _ in batches)
    for atoms in COUNTS:
        assert [row for group, rows in batches if group == atoms for row in rows] == list(range(sum(COUNTS[atoms])))
    assert order(sampler(shuffle=False), epoch=3) == batches


@pytest.mark.parametrize("weights", [{0: 1, 1: 1}, {0: 1, 1: 9}, {1: 0.1}])
def test_without_shuffling_weighted_passes_keep_the_order_of_the_structures(weights: dict[int, float]) -> None:
    drawn = sampler(shuffle=False, weights=weights)
    for epoch in range(3):
        batches = order(drawn, epoch)
        assert [group for group, _ in batches] == sorted(group for group, _ in batches)
        for atoms in COUNTS:
            rows = [row for group, rows in batches if group == atoms for row in rows]
            assert rows == sorted(rows)


def test_shuffling_with_weights_mixes_fidelities_and_structures_within_batches() -> None:
    batches = [(group, rows) for group, rows in order(sampler(weights={0: 1, 1: 1})) if len(rows) > 3]
    assert len(batches) > 3
    assert all(rows != sorted(rows) for _, rows in batches)
    fidelity = dataset()[3]["fidelity"]
    for group, rows in batches:
        if group == 3:
            drawn = [int(fidelity[row]) for row in rows]
            assert drawn not in (sorted(drawn), sorted(drawn, reverse=True))


def test_a_batch_size_in_atoms_includes_padding() -> None:
    data = dataset({10: (20,)})
    data[10]["numbers"][:, 2:] = 0
    drawn = MixedFidelitySampler(data, batch_size=35, batch_mode="atoms")
    assert max(len(rows) for _, rows in order(drawn)) == 3


def test_a_batch_has_at_least_one_structure() -> None:
    assert order(sampler({5: (1,)})) == [(5, [0])]
    assert order(sampler({5: (1,)}, batch_size=2, batch_mode="atoms")) == [(5, [0])]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_yields_the_batches_of_the_sampler(workers: int) -> None:
    data = dataset()
    drawn = MixedFidelitySampler(data, batch_size=8, seed=4)
    loader = BatchLoader(data, drawn, x=["fidelity", "row"], y=["numbers"], num_workers=workers)
    expected = order(drawn, 2)
    drawn.set_epoch(2)
    found = [(y["numbers"].shape[1], x["row"].tolist()) for x, y in loader]
    assert found == expected
    assert len(loader) == len(drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size is 0; expected an integer of at least 1"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5"),
        ({"batch_size": True}, r"batch_size is True"),
        ({"batch_mode": "atom"}, r"batch_mode is 'atom'; expected atoms or molecules"),
        ({"batches_per_epoch": 0}, r"batches_per_epoch is 0"),
        ({"seed": -1}, r"seed is -1"),
        ({"weights": {0: 1, 2: 1}}, r"weights for the fidelities \[2\], but structures only for \[0, 1\]"),
        ({"weights": {0: -1.0}}, r"weights are \{0: -1\.0\}; expected finite numbers of at least 0"),
        ({"weights": {1: float("nan")}}, r"weights are \{1: nan\}"),
        ({"weights": {1: float("inf")}}, r"weights are \{1: inf\}"),
        ({"weights": {0: 0, 1: 0.0}}, r"all fidelity weights are 0"),
        ({"counts": {}}, r"no structures to draw"),
    ],
)
def test_invalid_arguments_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sampler(**options)


def test_an_epoch_and_its_start_must_exist() -> None:
    drawn = sampler()
    with pytest.raises(DataError, match=r"start is -1"):
        drawn.set_start(-1)
    with pytest.raises(DataError, match=r"epoch is -1"):
        drawn.set_epoch(-1)
    with pytest.raises(DataError, match=rf"the epoch has only {len(drawn)} batches"):
        drawn.set_start(len(drawn) + 1)


def test_the_order_is_that_of_earlier_versions() -> None:
    """Digest of the orders of version 0.2.0 before structures were read by index."""
    digest = hashlib.sha256()
    every = [
        {(3, 0): 40, (5, 0): 25, (5, 1): 33, (9, 1): 7, (9, 2): 1},
        {(4, 0): 1},
        {(2, 0): 300, (7, 1): 5, (7, 2): 90},
    ]
    options = product(every, (False, True), (True, False), (0, 7), (False, True), MODES, (None, 3))
    for counts, is_mixed, shuffle, seed, is_weighted, mode, length in options:
        groups: dict[int, dict[str, np.ndarray]] = {}
        for size in sorted({size for size, _ in counts}):
            fidelity = np.concatenate([np.full(n, f, np.int64) for (atoms, f), n in counts.items() if atoms == size])
            if is_mixed:
                np.random.default_rng(size).shuffle(fidelity)
            groups[size] = {"fidelity": fidelity, "numbers": np.ones((len(fidelity), size), np.int32)}
        order = MixedFidelitySampler(
            DataSet.of_arrays(groups),
            batch_size=17,
            batch_mode=mode,
            shuffle=shuffle,
            seed=seed,
            weights={f: (1.0, 2.5, 0.3)[f] for f in sorted({f for _, f in counts})} if is_weighted else None,
            batches_per_epoch=length,
        )
        digest.update(repr(len(order)).encode())
        for epoch in (0, 1, 2, 5):
            order.set_epoch(epoch)
            for ((size, rows),) in order:
                digest.update(f"{size}:{rows.tolist()};".encode())
    assert digest.hexdigest() == "94980126514a2bb9047fd3bd27233c3e7d92656d2f8ad4c298380bba18cde68a"


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_takes_up_to_8_bytes_a_structure_while_it_is_prepared_and_4_afterwards(*, shuffle: bool) -> None:
    number = 300_000
    groups = {2: {"fidelity": np.repeat([0, 1], number // 2), "numbers": np.ones((number, 2), np.int32)}}
    order = MixedFidelitySampler(DataSet.of_arrays(groups), batch_size=64, shuffle=shuffle)
    tracemalloc.start()
    order.batch_at(0)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 4.6 * number
    assert peak < 9 * number
