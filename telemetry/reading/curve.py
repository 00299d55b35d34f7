"""One curve: the points of one metric of a run, as NumPy arrays."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The points of one metric, in the order of the journal. All arrays have the shape (points,).

    Attributes:
        name: in full, ``stream/metric``.
        unit: of the values; ``1`` where there is none, empty where the run does not declare the metric.
        label: what is measured, in words; may be empty.
        steps: iterations, int64.
        times: when the points were taken, UTC, datetime64[ms].
        values: float64, NaN and infinities as they were published.
        superseded: bool; the points that a later attempt has superseded, all False unless they were asked for.
    """

    name: str
    unit: str
    label: str
    steps: NDArray[np.int64]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    superseded: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"Curve({self.name!r}, unit={self.unit!r}, {len(self)} points)"


class Points:
    """The points of a curve while they are read: 25 bytes each, however many there are."""

    def __init__(self) -> None:
        self._steps, self._times, self._values, self._superseded = array("q"), array("q"), array("d"), array("b")

    def add(self, step: int, time: int, value: float, *, superseded: bool) -> None:
        """Take one more point in."""
        self._steps.append(step)
        self._times.append(time)
        self._values.append(value)
        self._superseded.append(superseded)

    def cut(self, step: int) -> None:
        """Drop what lies beyond an iteration."""
        if not self._steps or max(self._steps) <= step:
            return
        keep = [i for i, each in enumerate(self._steps) if each <= step]
        for name, column in vars(self).items():
            setattr(self, name, array(column.typecode, [column[i] for i in keep]))

    def curve(self, **what: Any) -> Curve | None:
        """Give them as a curve (``what``: its other attributes), None if there are none."""
        import numpy as np

        if not self._steps:
            return None
        # Copies: an array that is looked at from elsewhere cannot grow.
        return Curve(
            steps=np.array(self._steps, dtype=np.int64),
            times=np.array(self._times, dtype=np.int64).view("datetime64[ms]"),
            values=np.array(self._values, dtype=np.float64),
            superseded=np.array(self._superseded, dtype=np.bool_),
            **what,
        )
