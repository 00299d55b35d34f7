"""The tags of the overlay: one for all streams of a quantity, with section, order, name and unit.

TensorBoard sorts sections and charts by name, with numbers in numerical order, and shows no unit of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from telemetry.sink_api import DETAILS, OVERALL, PROGRESS, SYSTEM, Metric, charts, stream_of, with_unit

_POSITIONS = {OVERALL: 1, DETAILS: 3, PROGRESS: 4, SYSTEM: 6}
_PART = 2
"""Position of all parts of the data, such as fidelities: the same in runs with other parts, which share charts."""
_UNDECLARED = "5 other"


class OverlayTags(Mapping[str, str]):
    """The tag of each metric by full name, such as ``1 overall/2 E_rmse [kcal/mol]`` for ``val/E_rmse``.

    A tag never changes: each attempt of a run continues the curves of the earlier ones, even if its declarations have
    another order.

    Args:
        metrics: the declarations.
        known: the tags given by earlier attempts.
    """

    def __init__(self, metrics: Mapping[str, Metric], known: Mapping[str, str]) -> None:
        self._tags = dict(known)
        self._used = set(self._tags.values())
        self.declare(metrics)

    def declare(self, metrics: Mapping[str, Metric]) -> None:
        """Give tags to the declared metrics that have none."""
        for heading, group in charts(metrics).items():
            for chart in group:
                self._add(_section(heading), chart.names, metrics[chart.names[0]].unit)

    def __getitem__(self, name: str) -> str:
        return self._tags[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def add_undeclared(self, names: Iterable[str]) -> bool:
        """Give tags to the names that have none, and return whether there were any."""
        missing = [name for name in names if name not in self._tags]
        for name in missing:
            short = name.partition("/")[2]
            same = [n for n, tag in self._tags.items() if n.partition("/")[2] == short and _is_in(tag, _UNDECLARED)]
            self._add(_UNDECLARED, [*same, name], "")
        return bool(missing)

    def add_streams(self, streams: Iterable[str]) -> bool:
        """Add streams without metrics, under names that no metric has, and return whether there were any."""
        missing = {f"{stream}/": "" for stream in set(streams) - set(map(stream_of, self._tags))}
        self._tags |= missing
        return bool(missing)

    def _add(self, section: str, names: list[str], unit: str) -> None:
        known = next((self._tags[name] for name in names if name in self._tags), None)
        last = names[0].partition("/")[2] if section == _UNDECLARED else names[0].rpartition("/")[2]
        tag = known or f"{section}/{self._next_number(section)} {with_unit(last, unit)}"
        for name in names:
            self._tags.setdefault(name, tag)
        self._used.add(tag)

    def _next_number(self, section: str) -> int:
        numbers = (tag.rpartition(f"{section}/")[2].partition(" ")[0] for tag in self._used if _is_in(tag, section))
        return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)


def _section(heading: str) -> str:
    # Only the first slash of a tag separates the section.
    return f"{_POSITIONS.get(heading, _PART)} {heading.replace('/', '.')}"


def _is_in(tag: str, section: str) -> bool:
    return tag.startswith(f"{section}/")
