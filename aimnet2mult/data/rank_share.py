"""Distribution of batches over ranks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aimnet2mult.data.sampler import MixedFidelitySampler

if TYPE_CHECKING:
    from aimnet.data import SizeGroupedDataset

__all__ = ["RankShare", "load_rows", "load_share"]

Item = tuple[int, npt.NDArray[np.int64], bool]
Batch = tuple[dict[str, Tensor], dict[str, Tensor]]
Arrays = dict[str, npt.NDArray[Any]]


class RankShare:
    """One rank's share of the batches of a sampler; the sampler is the same on all ranks.

    Iterating yields ``((group, rows, labeled),)``. The shares of a batch differ by up to one row. If a batch has fewer
    rows than ranks, the remaining ranks get its first row with ``labeled`` False: without labels, they take part in
    all collectives but contribute nothing.

    Args:
        sampler: Sampler of the global batches.
        rank: Index of this rank.
        world: Number of ranks.
    """

    def __init__(self, sampler: MixedFidelitySampler, *, rank: int, world: int) -> None:
        self._sampler = sampler
        self._rank = rank
        self._world = world

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[tuple[Item]]:
        for ((group, rows),) in self._sampler:
            own = np.array_split(rows, self._world)[self._rank]
            yield ((group, own, True),) if len(own) else ((group, rows[:1], False),)


class _View:
    """Data set for a loader, indexed by ``(group, rows, labeled)``; items are pairs of inputs and labels."""

    def __init__(self, dataset: "SizeGroupedDataset", x: Sequence[str], y: Sequence[str]) -> None:
        self._dataset = dataset
        self._x = x
        self._y = y

    def __getitem__(self, item: Item) -> tuple[Arrays, Arrays]:
        number, rows, labeled = item
        group = self._dataset[number]
        x = {key: group[key][rows] for key in self._x}
        y = {key: group[key][rows] for key in self._y}
        return x, y if labeled else {key: np.full_like(values, np.nan) for key, values in y.items()}


def load_share(
    dataset: "SizeGroupedDataset",
    sampler: MixedFidelitySampler,
    *,
    x: Sequence[str],
    y: Sequence[str],
    rank: int,
    world: int,
    **options: Any,
) -> DataLoader[Batch]:
    """Return a loader that yields one rank's share of each batch of a sampler: whole batches with a single rank.

    Args:
        dataset: Data set of the sampler.
        sampler: Sampler of the global batches.
        x: Keys of the inputs.
        y: Keys of the labels.
        rank: Index of this rank.
        world: Number of ranks.
        **options: Options of ``torch.utils.data.DataLoader``.
    """
    if world == 1:
        loader: DataLoader[Batch] = dataset.get_loader(sampler, x=list(x), y=list(y), **options)
        return loader
    share: Any = RankShare(sampler, rank=rank, world=world)
    view: Any = _View(dataset, x, y)
    return DataLoader(view, batch_sampler=share, collate_fn=_as_tensors, **options)


def load_rows(
    dataset: "SizeGroupedDataset", group: int, rows: npt.NDArray[np.int64], *, x: Sequence[str], y: Sequence[str]
) -> Batch:
    """Return structures of a group as a batch, like those of a loader with the keys ``x`` and ``y``."""
    return _as_tensors([_View(dataset, x, y)[group, rows, True]])


def _as_tensors(items: Sequence[tuple[Arrays, Arrays]]) -> Batch:
    ((x, y),) = items
    return _tensors(x), _tensors(y)


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {key: torch.from_numpy(values) for key, values in arrays.items()}
