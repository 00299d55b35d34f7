"""The RMSE of the last batch, for users' own handlers. Does not import torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from aimnet2mult.quantities import Label

__all__ = ["BatchRmse"]


class BatchRmse(Mapping[str, float]):
    """The RMSE of each label over the last batch, in source units (eV, eV/Å, e), computed whenever it is read.

    Iterating yields the names of the labels, as in the original trainer; abbreviations such as ``E`` are accepted as
    well. Labels that are counted nowhere in the batch are absent. With several ranks, the values cover this rank's
    share of the batch. Reading waits for the device; not reading costs nothing.

    Args:
        read: function that returns the RMSE of each label by name, such as `ErrorSums.batch_rmse`.
        labels: the labels.
    """

    def __init__(self, read: Callable[[], Mapping[str, float]], labels: Sequence[Label]) -> None:
        self._read = read
        self._names = {label.abbr: label.name for label in labels}

    def __getitem__(self, label: str) -> float:
        """Return the RMSE of a label, by name or abbreviation."""
        return self._read()[self._names.get(label, label)]

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of the counted labels."""
        return iter(self._read())

    def __len__(self) -> int:
        """Return the number of counted labels."""
        return len(self._read())

    def __repr__(self) -> str:
        """Return the current values as a dictionary."""
        return repr(dict(self._read()))
