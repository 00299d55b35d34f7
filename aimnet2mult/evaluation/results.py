"""The results of an evaluation: metrics overall and by group, and the structures with the largest errors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.places import Places
from aimnet2mult.evaluation.frames import find_frames
from aimnet2mult.models.description import BestRecord
from aimnet2mult.train.display_units import DisplayUnits

__all__ = ["Result", "WorstStructure", "find_worst", "largest_by_group", "to_json_values"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WorstStructure:
    """A structure with one of the largest errors of a label."""

    file: str
    group: str
    row: int
    """Row in the group, counted from 0."""
    frame: int | None
    """Number of the structure in the data that the file was converted from, if known."""
    fidelity: str
    error: float
    """Largest absolute error of a component of the label, in the unit of the metric."""
    origin: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """The results of an evaluation; all values are in the units of the metrics."""

    model: str
    weights: str
    """The file of the weights."""
    best: BestRecord | None
    """The validation that the weights are the best of; None for others, and for files of earlier versions."""
    data: list[str]
    """The data files."""
    part: str | None
    """The part of the data of a run; None for data files of the user."""
    structures: int
    left_out: int
    """Number of structures that are not evaluated: bad ones, and those with elements without training data."""
    not_finite: list[str]
    """Places of the structures without finite predictions."""
    units: dict[str, str]
    """Unit of each metric."""
    metrics: dict[str, float]
    """Metrics of all structures, named as those of a validation; ``…_max`` are the largest absolute errors."""
    by: dict[str, dict[str, dict[str, float]]]
    """Metrics by grouping and group, with the number of ``structures``."""
    worst: dict[str, list[WorstStructure]] = field(default_factory=dict)
    """The structures with the largest errors of each label, the largest first."""

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain values for JSON; NaN and infinities are strings, as in a journal."""
        plain: dict[str, Any] = to_json_values(asdict(self))
        for structures in plain["worst"].values():
            for structure in structures:
                del structure["origin"]
        return plain


def to_json_values(value: Any) -> Any:
    """Return nested values with strings in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: to_json_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json_values(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def largest_by_group(
    errors: Floats, codes: npt.NDArray[np.int64], groups: int, names: Sequence[str]
) -> list[dict[str, float]]:
    """Return the largest errors of each group, as metrics such as ``E_max``.

    Args:
        errors: Largest error of each label in each structure, (names, structures); NaN or -inf if there is none.
        codes: Group of each structure.
        groups: Number of groups.
        names: Abbreviations of the labels.
    """
    largest = np.full((groups, len(names)), -np.inf)
    np.fmax.at(largest, codes, errors.T)
    return [
        {f"{name}_max": float(value) for name, value in zip(names, row, strict=True) if value >= 0} for row in largest
    ]


def find_worst(
    errors: Mapping[str, Floats],
    number: int,
    places: Places,
    fidelities: npt.NDArray[np.object_],
    units: DisplayUnits,
    *,
    allow_external: bool = False,
) -> dict[str, list[WorstStructure]]:
    """Return the structures with the largest errors.

    Args:
        errors: Largest error in each structure, (total,), by abbreviation of the label; NaN or -inf if there is none.
        number: Number of structures for each label.
        places: Where the structures come from.
        fidelities: Name of the fidelity of each structure, (total,).
        units: Units of the errors.
        allow_external: Whether the data may be in files that the data files link to.
    """
    worst = {}
    for name, values in errors.items():
        known = np.flatnonzero(values > 0)
        order = known[np.argsort(-values[known], kind="stable")][:number]
        factor = units.factor(f"{name}_max")
        frames = find_frames(places, order.tolist(), allow_external=allow_external)
        found = []
        for origin, frame in zip(order.tolist(), frames, strict=True):
            segment, row = places.find(origin)
            found.append(
                WorstStructure(
                    file=str(segment.path),
                    group=segment.group,
                    row=row,
                    frame=frame,
                    fidelity=str(fidelities[origin]),
                    error=float(values[origin]) * factor,
                    origin=origin,
                )
            )
        worst[name] = found
    return worst
