"""Sampling of batches that mix fidelities, in an order that depends only on the seed and the epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.strata import Ints, Rows, Stratum, find_strata
from aimnet2mult.errors import DataError

if TYPE_CHECKING:
    from aimnet2mult.data.dataset import DataSet

__all__ = ["BATCH_MODES", "MixedFidelitySampler"]

Batch = tuple[int, Ints]

BATCH_MODES = ("atoms", "molecules")

# Part of the key of each random generator, so that no two purposes share a stream.
_PERMUTATION, _ORDER = 0, 1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pass:
    """The batches of a pass."""

    rows: Mapping[int, Rows]
    """The rows of each group, batch after batch."""
    sizes: npt.NDArray[np.int32]
    """Group of each batch (batches,)."""
    starts: Ints
    """First row of each batch in those of its group (batches,)."""
    lengths: npt.NDArray[np.int32]
    """Number of structures of each batch (batches,)."""

    def batch(self, index: int) -> Batch:
        size, start = int(self.sizes[index]), int(self.starts[index])
        return size, self.rows[size][start : start + int(self.lengths[index])].astype(np.int64)


class MixedFidelitySampler:
    """Sampler of a data set.

    Iterating yields ``((group, rows),)``. All structures of a batch come from one size group; their fidelities are
    mixed. While a pass is prepared, up to 8 bytes a structure are used, and 4 afterwards.

    Batches are generated in passes, each with as many structures as the data set. Without ``weights``, a pass contains
    every structure once. With them, a share ``weights[f] / sum(weights)`` of a pass, exact up to rounding, has fidelity
    f. Within a fidelity, sampling is even: no structure of a size group is drawn again before all others have been,
    even across passes. Every pass has the same number of batches.

    An epoch is one pass, or the next ``batches_per_epoch`` batches, regardless of where passes begin and end. Its order
    depends only on the seed and the epoch.

    Args:
        dataset: Data set to sample.
        batch_size: Maximum size of a batch; a single structure may exceed it.
        batch_mode: Unit of ``batch_size``: ``molecules``, or ``atoms`` including padding.
        shuffle: Whether to shuffle; if not, groups and structures keep the order of the data set.
        batches_per_epoch: Length of an epoch; by default one pass.
        seed: Seed of the order.
        weights: Relative share of each fidelity; 1 for missing ones.

    Raises:
        DataError: An argument is invalid, or there is nothing to draw.
    """

    def __init__(
        self,
        dataset: "DataSet",
        *,
        batch_size: int,
        batch_mode: str = "molecules",
        shuffle: bool = True,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        if batch_mode not in BATCH_MODES:
            raise DataError(f"batch_mode is {batch_mode!r}; expected {' or '.join(BATCH_MODES)}")
        _check_integer("batch_size", batch_size, minimum=1)
        _check_integer("seed", seed, minimum=0)
        if batches_per_epoch is not None:
            _check_integer("batches_per_epoch", batches_per_epoch, minimum=1)
        self._shuffle = shuffle
        self._seed = seed
        self._strata = find_strata(dataset, weights)
        self._limits = _limits(dataset, batch_size, batch_mode)
        self._pass_length = _pass_length(self._strata, self._limits)
        self._length = self._pass_length if batches_per_epoch is None else batches_per_epoch
        self._epoch = 0
        self._start = 0
        self._last_pass: tuple[int, _Pass] | None = None

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, whatever its start."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch for the next iteration, from its beginning."""
        _check_integer("epoch", epoch, minimum=0)
        self._epoch = epoch
        self._start = 0

    def set_start(self, index: int) -> None:
        """Skip the first ``index`` batches of the epoch in the next iteration, to resume an epoch."""
        _check_integer("start", index, minimum=0)
        if index > len(self):
            raise DataError(f"start is {index}, but the epoch has only {len(self)} batches")
        self._start = index

    def __iter__(self) -> Iterator[tuple[Batch]]:
        """Yield ``((group, rows),)``; a later ``set_epoch`` does not affect an iteration in progress."""
        first = self._epoch * len(self)
        return self._batches(first + self._start, first + len(self))

    def batch_at(self, index: int) -> Batch:
        """Return group and rows of a batch, counted from 0 over all epochs; does not affect an iteration in progress.

        The batch of iteration 1 has index 0.
        """
        _check_integer("index", index, minimum=0)
        which, position = divmod(index, self._pass_length)
        return self._pass(which).batch(position)

    def batch_lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of structures of each batch of the first pass."""
        return self._pass(0).lengths

    def _batches(self, first: int, end: int) -> Iterator[tuple[Batch]]:
        for index in range(first, end):
            yield (self.batch_at(index),)

    def _pass(self, index: int) -> _Pass:
        # Several short epochs use the same pass.
        if self._last_pass is None or self._last_pass[0] != index:
            self._last_pass = None  # frees its memory
            self._last_pass = index, self._make_pass(index)
        return self._last_pass[1]

    def _make_pass(self, index: int) -> _Pass:
        rng = np.random.default_rng([self._seed, _ORDER, index])
        drawn = self._draw_all(index)
        parts = _divide({size: len(rows) for size, rows in drawn.items()}, self._limits, self._pass_length)
        sizes = np.repeat(np.array([*parts], np.int32), [*parts.values()])
        bounds = {size: _bounds(len(drawn[size]), number) for size, number in parts.items()}
        for size in parts:
            if self._shuffle:
                rng.shuffle(drawn[size])
            else:
                drawn[size].sort()
        order = rng.permutation(len(sizes)) if self._shuffle else np.arange(len(sizes))
        starts = np.concatenate([bound[:-1] for bound in bounds.values()])
        lengths = np.concatenate([np.diff(bound) for bound in bounds.values()]).astype(np.int32)
        return _Pass(rows=drawn, sizes=sizes[order], starts=starts[order], lengths=lengths[order])

    def _draw_all(self, index: int) -> dict[int, Rows]:
        """Return the rows of each group that a pass draws, as new arrays."""
        numbers = [int(stratum.draws(np.array([index]))[0]) for stratum in self._strata]
        drawn: dict[int, Rows] = {}
        for size in dict.fromkeys(stratum.size for stratum in self._strata):
            of_group = [pair for pair in zip(self._strata, numbers, strict=True) if pair[0].size == size]
            drawn[size] = np.empty(sum(number for _, number in of_group), np.uint32)
            start = 0
            for stratum, number in of_group:
                self._draw(stratum, index, drawn[size][start : start + number])
                start += number
        return drawn

    def _draw(self, stratum: Stratum, index: int, drawn: Rows) -> None:
        """Set the rows that a pass draws from a stratum: the rows following the draws of earlier passes."""
        earlier = int(stratum.draws(np.arange(index)).sum())
        cycle, skip = divmod(earlier, len(stratum))
        start = 0
        while start < len(drawn):
            rows = self._cycle(stratum, cycle)[skip:]
            number = min(len(rows), len(drawn) - start)
            drawn[start : start + number] = rows[:number]
            start, cycle, skip = start + number, cycle + 1, 0

    def _cycle(self, stratum: Stratum, cycle: int) -> Rows:
        rows = stratum.rows()
        if self._shuffle:
            key = [self._seed, _PERMUTATION, stratum.fidelity, stratum.size, cycle]
            np.random.default_rng(key).shuffle(rows)
        return rows


def _bounds(number: int, parts: int) -> Ints:
    """Return the bounds of parts of almost equal length, the longer ones first, as in `numpy.array_split`."""
    length, rest = divmod(number, parts)
    return np.cumsum([0, *[length + 1] * rest, *[length] * (parts - rest)])


def _limits(dataset: "DataSet", batch_size: int, batch_mode: str) -> dict[int, int]:
    """Return the maximum number of structures in a batch, by group."""
    if batch_mode == "molecules":
        return dict.fromkeys(dataset.keys(), batch_size)
    return {size: max(1, batch_size // group.atoms) for size, group in dataset.items()}


def _pass_length(strata: list[Stratum], limits: Mapping[int, int]) -> int:
    """Return a number of batches into which every pass can be divided, whatever its counts are."""
    max_draws: dict[int, int] = {}
    for stratum in strata:
        max_draws[stratum.size] = max_draws.get(stratum.size, 0) + stratum.max_draws
    quotas = {stratum.fidelity: stratum.quota for stratum in strata}
    return min(sum(quotas.values()), sum(-(-n // limits[size]) for size, n in max_draws.items()))


def _divide(counts: Mapping[int, int], limits: Mapping[int, int], length: int) -> dict[int, int]:
    """Return the number of batches for each group, ``length`` in total.

    Batches beyond those required by the limits go to the group whose batches are fullest.
    """
    parts = {size: -(-number // limits[size]) for size, number in counts.items() if number}
    for _ in range(length - sum(parts.values())):
        fullest = max(parts, key=lambda size: (parts[size] < counts[size], counts[size] / parts[size] / limits[size]))
        parts[fullest] += 1
    return parts


def _check_integer(name: str, value: int, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise DataError(f"{name} is {value!r}; expected an integer of at least {minimum}")
