"""What a run's folder records about its data: checksums, to detect changed data on a resume, and the split."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aimnet2mult.config.resume_rules import SPLIT_FILE
from aimnet2mult.config.schema import Config, input_files
from aimnet2mult.errors import DataError
from aimnet2mult.metrics.declarations import STREAMS
from telemetry.run_folder.atomic_write import read_json, write_json

__all__ = ["check_data", "find_split_file", "record_data"]

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


def find_split_file(config: Config, run: Path) -> Path | None:
    """Return the file with the split of a run: that in its folder, or else the one in the settings, if there is any.

    Runs of version 0.1 have no such file.
    """
    if os.path.lexists(run / SPLIT_FILE):
        return run / SPLIT_FILE
    # The path of a setting may be a link, unlike the files of a run folder.
    return None if config.data.split_file is None else Path(config.data.split_file).resolve()


def find_streams(config: Config, run: Path) -> list[str]:
    """Return the names of the streams for which a run has data.

    Raises:
        DataError: The split of the run cannot be read.
    """
    data, file = config.data, find_split_file(config, run)
    val, test = data.val_fraction > 0, data.test_fraction > 0
    if file is not None:
        from aimnet2mult.data.split import Part, read_split

        splits = read_split(file)
        val, test = (any(split.count(part) for split in splits) for part in (Part.VAL, Part.TEST))
    has_data = {
        "val": val or bool(data.val_fidelity_datasets),
        "test": test or bool(data.test_fidelity_datasets),
        "train_eval": config.trainer.evaluate_train_every is not None,
    }
    return [stream for stream in STREAMS if has_data.get(stream, True)]
