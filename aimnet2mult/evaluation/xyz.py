"""Structures with predictions and labels as extended xyz."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import SYMBOLS

__all__ = ["Frame", "write_xyz"]

Array = npt.NDArray[Any]


class Frame:
    """A structure for an extended xyz file, without padding.

    Args:
        numbers: Atomic numbers, (N,), 0 for padding.
        coord: Coordinates in Å, (N, 3).
        per_atom: Labels and predictions of the atoms by name, (N,) or (N, components).
        values: Labels and predictions of the structure by name, () or (components,).
        comments: Further entries of the comment line; those that are None are left out.

    Labels that are not finite are left out.
    """

    def __init__(
        self,
        numbers: Array,
        coord: Array,
        *,
        per_atom: Mapping[str, Array],
        values: Mapping[str, Array],
        comments: Mapping[str, object],
    ) -> None:
        real = numbers != 0
        self._symbols = [SYMBOLS[int(z)] for z in numbers[real]]
        columns = {"pos": coord, **per_atom}
        self._columns = {name: column[real] for name, column in columns.items() if np.isfinite(column[real]).all()}
        finite = {name: value for name, value in values.items() if np.isfinite(value).all()}
        self._comments = {**comments, **finite}

    def lines(self) -> Iterator[str]:
        """Yield the lines of the structure."""
        yield str(len(self._symbols))
        widths = {name: values.shape[1] if values.ndim > 1 else 1 for name, values in self._columns.items()}
        properties = "".join(f":{name}:R:{width}" for name, width in widths.items())
        entries = " ".join(f"{name}={_quote(value)}" for name, value in self._comments.items() if value is not None)
        yield f'Properties=species:S:1{properties} {entries} pbc="F F F"'
        table = np.column_stack([values.reshape(len(values), -1) for values in self._columns.values()])
        for symbol, row in zip(self._symbols, table.tolist(), strict=True):
            yield f"{symbol:<2} {' '.join(f'{value:16.8f}' for value in row)}"


def _quote(value: object) -> str:
    if isinstance(value, np.ndarray):
        text = " ".join(f"{number:.10g}" for number in np.ravel(value).tolist())
        return text if value.size == 1 else f'"{text}"'
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        return f'"{escaped}"'
    return str(value)


def write_xyz(path: Path, frames: Sequence[Frame]) -> None:
    """Write structures to a file.

    Raises:
        OSError: The file cannot be written.
    """
    lines = [line for frame in frames for line in frame.lines()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
