"""Names and paths that look like numbers in YAML, such as the number of a job or a date, and are text all the same."""

from collections.abc import Mapping
from typing import Any

__all__ = ["keep_text"]

TEXT_KEYS = (
    "run_name",
    "project_name",
    "load",
    "data.fidelity_names",
    "data.fidelity_datasets",
    "data.val_fidelity_datasets",
    "data.test_fidelity_datasets",
    "data.split_file",
    "data.cache",
    "data.stage",
    "data.sae.energy.files",
    "trainer.time_limit",
    "telemetry.dir",
)
"""Keys whose values are text, or mappings of text by fidelity index."""


def keep_text(layer: dict[str, Any], as_text: Any) -> dict[str, Any]:
    """Replace numbers, dates and truth values under ``TEXT_KEYS`` with their text; keep null.

    Args:
        layer: Parsed settings; modified.
        as_text: The same settings from ``yaml_text.parse_as_text``.
    """
    for key in TEXT_KEYS:
        *parents, last = key.split(".")
        parent, text = _find(layer, parents), _find(as_text, parents)
        if isinstance(parent, dict) and last in parent:
            parent[last] = _as_text(parent[last], text.get(last) if isinstance(text, Mapping) else None)
    return layer


def _find(node: Any, words: list[str]) -> Any:
    for word in words:
        node = node.get(word) if isinstance(node, Mapping) else None
    return node


def _as_text(value: Any, text: Any) -> Any:
    if isinstance(value, Mapping):
        texts = text if isinstance(text, Mapping) else {}
        return {key: _as_text(item, texts.get(str(key))) for key, item in value.items()}
    if value is None or isinstance(value, str | list):
        return value
    return text if isinstance(text, str) else str(value)
