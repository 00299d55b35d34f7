"""Full names for the metrics of other frameworks, which have their own conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EVALUATIONS = frozenset({"val", "test", "eval", "predict"})
"""Streams of evaluations, which may be repeated at any iteration."""
TRAINING = "train"
"""The stream of names that do not tell theirs."""
_STREAMS = {
    "train": TRAINING,
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "eval": "eval",
    "predict": "predict",
}


class HostNames:
    """Derive the stream and the name within it from the names of a framework.

    ``a/b`` is the metric ``b`` of the stream ``a``. ``val_loss`` is ``loss`` of ``val``; likewise for ``train_``,
    ``valid_``, ``validation_``, ``test_``, ``eval_`` and ``predict_``. Everything else belongs to ``train``. If two
    names would become the same one, the second gets a number.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}
        self._taken: set[tuple[str, str]] = set()

    def resolve(self, name: str) -> tuple[str, str]:
        """Return the stream and the name within it; the same for every call.

        Examples:
            >>> names = HostNames()
            >>> [names.resolve(name) for name in ("val/acc", "valid_loss", "lr", "val/loss")]
            [('val', 'acc'), ('val', 'loss'), ('train', 'lr'), ('val', 'loss_2')]
        """
        if name not in self._known:
            stream, metric = _split(name)
            found, number = (stream, metric), 2
            while found in self._taken:
                found, number = (stream, f"{metric}_{number}"), number + 1
            self._taken.add(found)
            self._known[name] = found
        return self._known[name]


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of nested mappings, with ``/`` between the names of the levels."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _split(name: str) -> tuple[str, str]:
    stream, slash, metric = name.partition("/")
    if slash and stream and metric.strip("/"):
        return stream, metric.strip("/")
    stream, _, metric = name.partition("_")
    if metric and stream in _STREAMS:
        return _STREAMS[stream], metric
    return TRAINING, name
