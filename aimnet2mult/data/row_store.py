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

    def read(self, rows: npt.NDArray[np.integer[Any]], keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return new arrays of some structures, with the types, units and defaults of `read_fidelity`.

        Args:
            rows: Rows of the group, in any order, also repeatedly.
            keys: Inputs and labels to read.

        Raises:
            DataError: The structures cannot be read; the message has the path and the reason.
        """
        ...
