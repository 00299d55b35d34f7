"""The data sets of a run, which MLflow shows as its inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from telemetry.sink_api import RunRecord, private_opener

_FILE = "data.json"
"""File of the run folder with the CRC-32 of each data file, keyed by the dotted name of the parameter with its path."""
_CONTEXT_TAG = "mlflow.data.context"
_CONTEXTS = {"val_": "validation", "test_": "test"}
"""What MLflow shows for the data sets in a section, by the beginning of its name."""
_MAX_BYTES = 1 << 20
_MAX_NAME_LENGTH, _MAX_DIGEST_LENGTH = 500, 36
"""Maximum numbers of characters in MLflow's tables."""


def find_datasets(run: RunRecord, folder: Path) -> list[Any]:
    """Return MLflow's description of each data file of a run; empty while the checksums are not recorded."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for key, checksum in _checksums(folder).items():
        path = _parameter(run.params, key)
        if isinstance(path, str) and isinstance(checksum, int):
            section = key.rpartition(".")[0].rpartition(".")[2]
            context = next((name for start, name in _CONTEXTS.items() if section.startswith(start)), "training")
            name = Path(path).name[:_MAX_NAME_LENGTH]
            digest = f"{checksum:08x}"[:_MAX_DIGEST_LENGTH]
            dataset = Dataset(name, digest, "local", json.dumps({"uri": path}))
            found.append(DatasetInput(dataset, [InputTag(_CONTEXT_TAG, context)]))
    return found


def _checksums(folder: Path) -> Mapping[str, Any]:
    try:
        with open(folder / _FILE, "rb", opener=private_opener) as file:
            found = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parameter(params: Any, key: str) -> Any:
    """Return the parameter with a dotted name; None if there is none."""
    for word in key.split("."):
        params = params.get(word) if isinstance(params, Mapping) else None
    return params
