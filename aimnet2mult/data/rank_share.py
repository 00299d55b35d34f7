"""Loading of batches, each of which is distributed over the ranks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.errors import DataError

if TYPE_CHECKING:
    from aimnet2mult.data.dataset import DataSet

__all__ = ["BatchLoader", "RankShare", "load_rows", "share_of"]

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
            own = rows[share_of(len(rows), self._rank, self._world)]
            yield ((group, own, True),) if len(own) else ((group, rows[:1], False),)


def share_of(rows: int, rank: int, world: int) -> slice:
    """Return one rank's share of the rows of a batch, as `numpy.array_split` divides them."""
    size, rest = divmod(rows, world)
    start = rank * size + min(rank, rest)
    return slice(start, start + size + (rank < rest))


@dataclass(frozen=True)
class _Arrays:
    """Inputs and labels of a batch.

    Workers send arrays rather than tensors: torch would share the memory of each tensor through a file descriptor,
    which takes several times as long as a copy, and which the trainer has to request from a thread of the worker.
    """

    x: Arrays
    y: Arrays

    def tensors(self) -> Batch:
        """Return tensors with the same memory."""
        return _tensors(self.x), _tensors(self.y)

    def pin_memory(self) -> Batch:
        """Return tensors in pinned memory; called by the thread of a loader with the option ``pin_memory``."""
        x, y = self.tensors()
        for values in (x, y):
            values.update({key: tensor.pin_memory() for key, tensor in values.items()})
        return x, y


class _View:
    """Data set for a loader, indexed by ``(group, rows, labeled)``."""

    def __init__(self, dataset: "DataSet", x: Sequence[str], y: Sequence[str]) -> None:
        self._dataset = dataset
        self._x = x
        self._y = y

    def __getitem__(self, item: Item) -> _Arrays | DataError:
        number, rows, labeled = item
        try:
            arrays = self._dataset[number].read(rows, [*self._x, *self._y])
        except DataError as error:
            # Raised in a worker, it would become a traceback.
            return error
        x, y = {key: arrays[key] for key in self._x}, {key: arrays[key] for key in self._y}
        return _Arrays(x, y if labeled else {key: np.full_like(values, np.nan) for key, values in y.items()})


class BatchLoader(DataLoader[Batch]):
    """Loader that yields one rank's share of each batch of a sampler: whole batches with a single rank.

    Args:
        dataset: Data set of the sampler.
        sampler: Sampler of the global batches.
        x: Keys of the inputs.
        y: Keys of the labels.
        rank: Index of this rank.
        world: Number of ranks.
        **options: Options of ``torch.utils.data.DataLoader``.

    Iterating raises `DataError` if a file cannot be read.
    """

    def __init__(
        self,
        dataset: "DataSet",
        sampler: MixedFidelitySampler,
        *,
        x: Sequence[str],
        y: Sequence[str],
        rank: int = 0,
        world: int = 1,
        **options: Any,
    ) -> None:
        share: Any = RankShare(sampler, rank=rank, world=world)
        view: Any = _View(dataset, x, y)
        super().__init__(view, batch_sampler=share, collate_fn=_only, **options)

    def __iter__(self) -> Any:
        # The workers start now, not with the first batch.
        return _as_tensors(super().__iter__())


def load_rows(
    dataset: "DataSet", group: int, rows: npt.NDArray[np.int64], *, x: Sequence[str], y: Sequence[str]
) -> Batch:
    """Return structures of a group as a batch, like those of a loader with the keys ``x`` and ``y``.

    Raises:
        DataError: A file cannot be read.
    """
    (batch,) = _as_tensors([_View(dataset, x, y)[group, rows, True]])
    return batch


def _as_tensors(batches: Iterable[Batch | _Arrays | DataError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        # Those of a loader that pins memory are tensors already.
        yield batch.tensors() if isinstance(batch, _Arrays) else batch


def _only(items: Sequence[_Arrays | DataError]) -> _Arrays | DataError:
    (item,) = items
    return item


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {key: torch.from_numpy(values) for key, values in arrays.items()}
