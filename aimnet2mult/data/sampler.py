"""The order in which structures are drawn: batches that mix fidelities, by (seed, epoch) alone."""

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

# What a random stream is for is part of its key, so that no two uses share one.
_PERMUTATION, _ORDER = 0, 1


@dataclass(frozen=True, kw_only=True)
class _Stratum:
    """The structures of one fidelity in one size group, and how many of them a pass draws."""

    fidelity: int
    size: int
    rows: Ints
    before: int
    """Structures of the same fidelity in smaller groups."""
    total: int
    """Structures of the same fidelity in all groups."""
    quota: int
    """Structures that a pass draws of the whole fidelity."""

    def drawn(self, passes: Ints) -> Ints:
        """Return how many structures each of ``passes`` draws from here.

        Systematic sampling: the fidelity's groups lie on a line of length ``quota``, and a pass
        counts the ticks of an integer grid on each. So the counts of a pass add up to ``quota``
        exactly, each is its exact share rounded down or up, and as the grid moves from pass to pass,
        in the long run every group gets its share, however small.
        """
        grid = passes * _step(self.total) % self.total
        end = (self.quota * (self.before + len(self.rows)) + grid) // self.total
        return end - (self.quota * self.before + grid) // self.total

    @property
    def most(self) -> int:
        """The largest number that any pass draws from here."""
        return -(-self.quota * len(self.rows) // self.total)


class MixedFidelitySampler:
    """Batches of a ``SizeGroupedDataset`` whose groups hold an integer array ``fidelity`` (B,).

    To be given to ``SizeGroupedDataset.get_loader``: iterating yields ``((group, rows),)``. All
    structures of a batch come from one size group; their fidelities are mixed.

    Batches come in passes. A pass has as many structures as the data set. Without ``weights`` it
    has each of them once. With them a share ``weights[f] / sum(weights)`` of a pass, exact up to
    rounding, is of fidelity f, where a fidelity without a weight has weight 1; the structures of a
    fidelity are gone through evenly, none of a size group again before all others were drawn, also
    from one pass to the next. Every pass has the same number of batches.

    An epoch is one pass, or the next ``batches_per_epoch`` batches, wherever passes begin and end.
    Its order is a function of the seed and the epoch alone; ``shuffle=False`` goes through groups
    and structures in their own order.

    ``batch_size`` counts structures (``batch_mode="molecules"``) or atoms with their padding
    (``"atoms"``); it is the most that a batch has, except that a batch has at least one structure.

    Raises ``DataError`` for arguments that mean nothing, and where there is nothing to draw.
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
            raise DataError(f"batch_mode {batch_mode!r} is none of {', '.join(BATCH_MODES)}")
        _check_natural("batch_size", batch_size, least=1)
        _check_natural("seed", seed, least=0)
        if batches_per_epoch is not None:
            _check_natural("batches_per_epoch", batches_per_epoch, least=1)
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
        """Return the number of batches of a whole epoch; the same for all, wherever one starts."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration go through this epoch, from its beginning."""
        _check_natural("epoch", epoch, least=0)
        self._epoch = epoch
        self._start = 0

    def set_start(self, index: int) -> None:
        """Let the next iteration leave out the epoch's first ``index`` batches; to go on with an epoch."""
        _check_natural("start", index, least=0)
        if index > len(self):
            raise DataError(f"start {index} is beyond the epoch's {len(self)} batches")
        self._start = index

    def __iter__(self) -> Iterator[tuple[Batch]]:
        """Iterate over ``((group, rows),)``; a later ``set_epoch`` does not change an iteration under way."""
        first = self._epoch * len(self)
        return self._batches(first + self._start, first + len(self))

    def _batches(self, first: int, end: int) -> Iterator[tuple[Batch]]:
        for index in range(first, end):
            which, position = divmod(index, self._pass_length)
            yield (self._pass(which)[position],)

    def _pass(self, index: int) -> list[Batch]:
        # Epochs of a few batches each come back to the same pass.
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
        """Return the rows that a pass takes from a stratum: those after the ones of earlier passes."""
        earlier = int(stratum.drawn(np.arange(index)).sum())
        number = int(stratum.drawn(np.array([index]))[0])
        cycle, skip = divmod(earlier, len(stratum.rows))
        cycles = range(cycle, cycle + 1 + (skip + number) // len(stratum.rows))
        return np.concatenate([self._cycle(stratum, c) for c in cycles])[skip : skip + number]

    def _cycle(self, stratum: _Stratum, cycle: int) -> Ints:
        if not self._shuffle:
            return stratum.rows
        key = [self._seed, _PERMUTATION, stratum.fidelity, stratum.size, cycle]
        return np.random.default_rng(key).permutation(stratum.rows)


def _step(total: int) -> int:
    """Return a step that visits every point of a circle of ``total``, evenly from the beginning."""
    # The golden ratio is what multiples of fill a circle most evenly; a common factor would leave points out.
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
        raise DataError("there are no structures to draw")
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
    """Share out as many structures as there are by the weights, to the largest remainders first."""
    unknown = sorted(set(weights) - set(totals))
    if unknown:
        raise DataError(f"weights for the fidelities {unknown}; structures are there of {sorted(totals)}")
    bad = {f: w for f, w in weights.items() if not (isfinite(w) and w >= 0)}
    if bad:
        raise DataError(f"fidelity weights {bad} are not finite numbers of at least 0")
    full = {fidelity: float(weights.get(fidelity, 1.0)) for fidelity in totals}
    whole = sum(full.values())
    if whole == 0:
        raise DataError("all fidelity weights are 0: there is nothing to draw; give one fidelity a weight above 0")
    structures = sum(totals.values())
    exact = {fidelity: structures * weight / whole for fidelity, weight in full.items()}
    quotas = {fidelity: int(share) for fidelity, share in exact.items()}
    by_remainder = sorted(exact, key=lambda fidelity: (quotas[fidelity] - exact[fidelity], fidelity))
    for fidelity in by_remainder[: structures - sum(quotas.values())]:
        quotas[fidelity] += 1
    return quotas


def _limits(dataset: "SizeGroupedDataset", batch_size: int, batch_mode: str) -> dict[int, int]:
    """Return the most structures that a batch of each group may have."""
    if batch_mode == "molecules":
        return dict.fromkeys(dataset.keys(), batch_size)
    return {size: max(1, batch_size // group["numbers"].shape[1]) for size, group in dataset.items()}


def _pass_length(strata: list[_Stratum], limits: Mapping[int, int]) -> int:
    """Return a number of batches that every pass can be divided into, however its counts fall."""
    most: dict[int, int] = {}
    for stratum in strata:
        most[stratum.size] = most.get(stratum.size, 0) + stratum.most
    fidelities = {stratum.fidelity: stratum.quota for stratum in strata}
    return min(sum(fidelities.values()), sum(-(-n // limits[size]) for size, n in most.items()))


def _divide(counts: Mapping[int, int], limits: Mapping[int, int], length: int) -> dict[int, int]:
    """Return into how many batches each group's structures go, ``length`` in all.

    What the limits do not need goes to the group with the largest batches for its limit.
    """
    parts = {size: -(-number // limits[size]) for size, number in counts.items() if number}
    for _ in range(length - sum(parts.values())):
        fullest = max(parts, key=lambda size: (parts[size] < counts[size], counts[size] / parts[size] / limits[size]))
        parts[fullest] += 1
    return parts


def _check_natural(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name} {value!r} is not a whole number of at least {least}")
