"""Sampling of batches that mix fidelities, in an order that depends only on the seed and the epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from math import gcd, isfinite
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aimnet2mult.errors import DataError

if TYPE_CHECKING:
    from aimnet.data import SizeGroupedDataset

__all__ = ["BATCH_MODES", "MixedFidelitySampler"]

Ints = npt.NDArray[np.int64]
Batch = tuple[int, Ints]

BATCH_MODES = ("atoms", "molecules")

# Part of the key of each random generator, so that no two purposes share a stream.
_PERMUTATION, _ORDER = 0, 1


@dataclass(frozen=True, kw_only=True)
class _Stratum:
    """The structures of one fidelity in one size group."""

    fidelity: int
    size: int
    rows: Ints
    before: int
    """Number of structures of the same fidelity in smaller groups."""
    total: int
    """Number of structures of the same fidelity in all groups."""
    quota: int
    """Number of structures of the same fidelity that a pass draws from all groups."""

    def draws(self, passes: Ints) -> Ints:
        """Return how many structures each of ``passes`` draws from this stratum.

        Systematic sampling: the groups of the fidelity are segments of a line of length ``quota``, and a pass counts
        the points of an integer grid in each segment. The counts of a pass therefore add up to ``quota`` exactly, and
        each is the exact share rounded down or up. The grid is shifted from pass to pass, so that in the long run every
        group gets its share, however small.
        """
        grid = passes * _step(self.total) % self.total
        end = (self.quota * (self.before + len(self.rows)) + grid) // self.total
        return end - (self.quota * self.before + grid) // self.total

    @property
    def max_draws(self) -> int:
        """The largest number of structures that any pass draws from this stratum."""
        return -(-self.quota * len(self.rows) // self.total)


class MixedFidelitySampler:
    """Sampler of a ``SizeGroupedDataset`` whose groups contain an integer array ``fidelity`` (B,).

    For ``SizeGroupedDataset.get_loader``: iterating yields ``((group, rows),)``. All structures of a batch come from
    one size group; their fidelities are mixed.

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
        dataset: "SizeGroupedDataset",
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
        self._strata = _strata(dataset, weights)
        self._limits = _limits(dataset, batch_size, batch_mode)
        self._pass_length = _pass_length(self._strata, self._limits)
        self._length = self._pass_length if batches_per_epoch is None else batches_per_epoch
        self._epoch = 0
        self._start = 0
        self._last_pass: tuple[int, list[Batch]] | None = None

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
        return self._pass(which)[position]

    def _batches(self, first: int, end: int) -> Iterator[tuple[Batch]]:
        for index in range(first, end):
            yield (self.batch_at(index),)

    def _pass(self, index: int) -> list[Batch]:
        # Several short epochs use the same pass.
        if self._last_pass is None or self._last_pass[0] != index:
            self._last_pass = index, self._make_pass(index)
        return self._last_pass[1]

    def _make_pass(self, index: int) -> list[Batch]:
        rng = np.random.default_rng([self._seed, _ORDER, index])
        groups: dict[int, list[Ints]] = {}
        for stratum in self._strata:
            groups.setdefault(stratum.size, []).append(self._draw(stratum, index))
        drawn = {size: np.concatenate(parts) for size, parts in groups.items()}
        parts = _divide({size: len(rows) for size, rows in drawn.items()}, self._limits, self._pass_length)
        batches: list[Batch] = []
        for size, number in parts.items():
            rows = rng.permutation(drawn[size]) if self._shuffle else np.sort(drawn[size])
            batches.extend((size, part) for part in np.array_split(rows, number))
        if self._shuffle:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _draw(self, stratum: _Stratum, index: int) -> Ints:
        """Return the rows that a pass draws from a stratum: the rows following the draws of earlier passes."""
        earlier = int(stratum.draws(np.arange(index)).sum())
        number = int(stratum.draws(np.array([index]))[0])
        cycle, skip = divmod(earlier, len(stratum.rows))
        cycles = range(cycle, cycle + 1 + (skip + number) // len(stratum.rows))
        return np.concatenate([self._cycle(stratum, c) for c in cycles])[skip : skip + number]

    def _cycle(self, stratum: _Stratum, cycle: int) -> Ints:
        if not self._shuffle:
            return stratum.rows
        key = [self._seed, _PERMUTATION, stratum.fidelity, stratum.size, cycle]
        return np.random.default_rng(key).permutation(stratum.rows)


def _step(total: int) -> int:
    """Return the shift of the grid per pass: coprime to ``total``, so that all shifts occur."""
    # Multiples of the golden ratio modulo 1 are spread most evenly (three-distance theorem).
    return next(step for step in count(round(0.6180339887498949 * total)) if gcd(step, total) == 1)


def _strata(dataset: "SizeGroupedDataset", weights: Mapping[int, float] | None) -> list[_Stratum]:
    rows = {
        (int(fidelity), size): np.flatnonzero(group["fidelity"] == fidelity)
        for size, group in dataset.items()
        for fidelity in np.unique(group["fidelity"])
    }
    totals: dict[int, int] = {}
    before = {}
    for fidelity, size in sorted(rows):
        before[fidelity, size] = totals.get(fidelity, 0)
        totals[fidelity] = before[fidelity, size] + len(rows[fidelity, size])
    if not totals:
        raise DataError("the data set has no structures to draw")
    quotas = totals if weights is None else _quotas(totals, weights)
    return [
        _Stratum(
            fidelity=fidelity,
            size=size,
            rows=rows[fidelity, size],
            before=before[fidelity, size],
            total=totals[fidelity],
            quota=quotas[fidelity],
        )
        for fidelity, size in sorted(rows)
        if quotas[fidelity] > 0
    ]


def _quotas(totals: Mapping[int, int], weights: Mapping[int, float]) -> dict[int, int]:
    """Distribute the structures of a pass among the fidelities by weight, with the largest remainder method."""
    unknown = sorted(set(weights) - set(totals))
    if unknown:
        raise DataError(f"there are weights for the fidelities {unknown}, but structures only for {sorted(totals)}")
    invalid = {f: w for f, w in weights.items() if not (isfinite(w) and w >= 0)}
    if invalid:
        raise DataError(f"fidelity weights are {invalid}; expected finite numbers of at least 0")
    full = {fidelity: float(weights.get(fidelity, 1.0)) for fidelity in totals}
    total_weight = sum(full.values())
    if total_weight == 0:
        raise DataError("all fidelity weights are 0; set at least one above 0")
    structures = sum(totals.values())
    exact = {fidelity: structures * weight / total_weight for fidelity, weight in full.items()}
    quotas = {fidelity: int(share) for fidelity, share in exact.items()}
    by_remainder = sorted(exact, key=lambda fidelity: (quotas[fidelity] - exact[fidelity], fidelity))
    for fidelity in by_remainder[: structures - sum(quotas.values())]:
        quotas[fidelity] += 1
    return quotas


def _limits(dataset: "SizeGroupedDataset", batch_size: int, batch_mode: str) -> dict[int, int]:
    """Return the maximum number of structures in a batch, by group."""
    if batch_mode == "molecules":
        return dict.fromkeys(dataset.keys(), batch_size)
    return {size: max(1, batch_size // group["numbers"].shape[1]) for size, group in dataset.items()}


def _pass_length(strata: list[_Stratum], limits: Mapping[int, int]) -> int:
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
