"""Reading of single structures of a data file, wherever they are: in memory, in a cache, or in the file itself."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["RowStore"]


class RowStore(Protocol):
    """The structures of one group of a data file."""

    @property
    def rows(self) -> int:
        """Number of structures, including bad ones."""
        ...

    @property
    def atoms(self) -> int:
        """Number of atoms of a structure, including padding."""
        ...

    @property
    def block(self) -> int:
        """Number of rows to read at once when all are read one after the other."""
        ...

    def read(self, rows: npt.NDArray[np.integer[Any]], keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return new arrays of some structures: float32, ``energy`` float64, ``numbers`` int32.

        They are in the units of the training. If the file lacks them, ``charge`` is 0, ``mult`` is 1, and labels are
        NaN. Infinite labels are NaN.

        Args:
            rows: Rows of the group, in any order, also repeatedly.
            keys: Inputs and labels to read.

        Raises:
            DataError: The structures cannot be read; the message has the path and the reason.
        """
        ...
