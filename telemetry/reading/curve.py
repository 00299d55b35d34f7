"""One curve: the points of one metric of a run, as NumPy arrays."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from telemetry.metrics import Direction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The points of one metric, in journal order. All arrays have the shape (points,).

    Attributes:
        name: full name, ``stream/metric``.
        unit: unit of the values; ``1`` if dimensionless, empty if the run does not declare the metric.
        label: description of the quantity; may be empty.
        better: whether lower or higher values are better; None if neither, or unknown, so that no value is the best.
        steps: iterations, int64.
        times: times at which the points were recorded, UTC, datetime64[ms].
        values: values as published, including NaN and infinities, float64.
        superseded: whether each point is superseded by a later attempt, bool. All False unless such points were
            requested.
    """

    name: str
    unit: str
    label: str
    better: Direction | None = None
    steps: NDArray[np.int64]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    superseded: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"Curve({self.name!r}, unit={self.unit!r}, {len(self)} points)"


class CurveBuilder:
    """Collect the points of a curve while a journal is read, using 25 bytes per point."""

    def __init__(self) -> None:
        self._steps, self._times, self._values, self._superseded = array("q"), array("q"), array("d"), array("b")

    def add(self, step: int, time: int, value: float, *, superseded: bool) -> None:
        """Append a point; ``time`` is in milliseconds since 1970."""
        self._steps.append(step)
        self._times.append(time)
        self._values.append(value)
        self._superseded.append(superseded)

    def drop_after(self, step: int) -> None:
        """Remove the points of later iterations."""
        if not self._steps or max(self._steps) <= step:
            return
        keep = [i for i, each in enumerate(self._steps) if each <= step]
        for name, column in vars(self).items():
            setattr(self, name, array(column.typecode, [column[i] for i in keep]))

    def build(self, **attributes: Any) -> Curve | None:
        """Return the curve (``attributes``: name, unit, label and better), or None if it has no points."""
        import numpy as np

        if not self._steps:
            return None
        # Copies, because an array.array cannot grow while NumPy shares its buffer.
        return Curve(
            steps=np.array(self._steps, dtype=np.int64),
            times=np.array(self._times, dtype=np.int64).view("datetime64[ms]"),
            values=np.array(self._values, dtype=np.float64),
            superseded=np.array(self._superseded, dtype=np.bool_),
            **attributes,
        )
