"""The RMSE of the last batch, for users' own handlers. Does not import torch."""

from collections.abc import Callable, Iterator, Mapping

from aimnet2mult.quantities import LABELS

__all__ = ["BatchRmse"]

_NAMES = {label.abbr: name for name, label in LABELS.items()}


class BatchRmse(Mapping[str, float]):
    """The RMSE of each label over the last batch, in source units (eV, eV/Å, e), computed whenever it is read.

    Iterating yields the names of the labels, as in the original trainer; abbreviations such as ``E`` are accepted as
    well. Labels that are counted nowhere in the batch are absent. With several ranks, the values cover this rank's
    share of the batch. Reading waits for the device; not reading costs nothing.

    Args:
        read: function that returns the RMSE of each label by name, such as `ErrorSums.batch_rmse`.
    """

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def __getitem__(self, label: str) -> float:
        """Return the RMSE of a label, by name or abbreviation."""
        return self._read()[_NAMES.get(label, label)]

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of the counted labels."""
        return iter(self._read())

    def __len__(self) -> int:
        """Return the number of counted labels."""
        return len(self._read())

    def __repr__(self) -> str:
        """Return the current values as a dictionary."""
        return repr(dict(self._read()))
