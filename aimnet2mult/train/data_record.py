"""The checksums of a run's data files, recorded in its folder, to detect changed data on a resume."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aimnet2mult.config.schema import Config, input_files
from aimnet2mult.errors import DataError
from telemetry.run_folder.atomic_write import read_json, write_json

__all__ = ["check_data", "record_data"]

FILE = "data.json"
DECODER = msgspec.json.Decoder(dict[str, int])


def check_data(checksums: Mapping[str, int], config: Config, run: Path) -> None:
    """Compare the checksums of the data files with those of the start of the run, if they are recorded.

    Args:
        checksums: Checksums by key, such as ``data.fidelity_datasets.0``.
        config: The configuration, which has the path of each file.
        run: The run folder.

    Raises:
        DataError: A file has another content, and the message names it; or the record is damaged.
    """
    recorded = read_json(run / FILE, DECODER)
    if recorded is None and os.path.lexists(run / FILE):
        raise DataError(f"{run / FILE} is damaged; remove it to resume without comparing the data files one by one")
    recorded = recorded or {}
    paths = input_files(config)
    changed = [f"{key} ({paths[key]})" for key, value in checksums.items() if recorded.get(key, value) != value]
    if changed:
        raise DataError(
            f"the data have changed since the start of {run}: {', '.join(changed)}; restore them, or start a new run "
            "with --load"
        )


def record_data(checksums: Mapping[str, int], run: Path) -> None:
    """Write the checksums to the run folder.

    Raises:
        OSError: The file cannot be written.
    """
    write_json(run / FILE, checksums)
