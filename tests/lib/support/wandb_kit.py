"""Open the W&B sink, and read its offline files with wandb's own tool."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from sinks.wandb.sink import WandbSink
from sinks.wandb.timeouts import Timeouts
from telemetry import RunRecord
from telemetry.sink_api import Opened, Record
from telemetry.testing import MediaItem, Point, run_record

CORE = Path(wandb.__file__).parent / "bin" / "wandb-core"
SINK_KEYS = {"trainer/iteration", "telemetry/seq", "telemetry/attempt"}


def transaction_logs(folder: Path) -> list[Path]:
    """Return the offline files of the run in a folder, oldest first."""
    # Further runs of the same second have the suffix -1 to -10.
    return sorted(
        (folder / "wandb").glob("offline-run-*/run-*.wandb"),
        key=lambda path: (path.parent.name[:27], len(path.parent.name), path.parent.name),
    )


def inspect(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file, read by wandb-core."""
    command: list[str | Path] = [CORE, "leet", "inspect", "-no-observability", "-json", "-run-file", path]
    out = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()]


def records(folder: Path, kind: str) -> list[Any]:
    """Return the content of all records of one kind, in all files of a run."""
    return [r[kind] for path in transaction_logs(folder) for r in inspect(path) if r["type"] == kind]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the history rows in all files of a run."""
    return [history["item"] for history in records(folder, "history")]


def exit_codes(folder: Path) -> list[int]:
    """Return the exit code in each finished file."""
    return [record.get("exit_code", 0) for record in records(folder, "exit")]


def config(folder: Path) -> dict[str, Any]:
    """Return the configuration in the newest file."""
    found = records(folder, "run")
    return found[-1]["config"]["update"] if found else {}


def summary(folder: Path) -> dict[str, Any]:
    """Return the summary after all files of a run."""
    found: dict[str, Any] = {}
    for record in records(folder, "summary"):
        found |= record["update"]
    return found


def points(history: Iterable[Mapping[str, Any]], units: Mapping[str, str]) -> list[Point]:
    """Return the points in history rows."""
    return [
        Point(
            name,
            row["trainer/iteration"],
            float(value),
            round(row["_timestamp"] * 1000),
            units.get(name, "1"),
        )
        for row in history
        for name, value in row.items()
        if name not in SINK_KEYS and not name.startswith(("_", "best/", *media_keys(row)))
    ]


def media_keys(row: Mapping[str, Any]) -> list[str]:
    """Return the keys of media in a row, which wandb-core flattens in files."""
    flat = [name.removesuffix("_type") for name in row if name.endswith("._type")]
    return [*flat, *(name for name, value in row.items() if isinstance(value, dict))]


def media_items(folder: Path, history: Iterable[Mapping[str, Any]]) -> Iterator[MediaItem]:
    """Yield the media in history rows, whose contents are in the local files of the run in a folder."""
    for row in history:
        for key in media_keys(row):
            name = key.removesuffix(".")
            found = row.get(name) or {k.removeprefix(key): v for k, v in row.items() if k.startswith(key)}
            yield MediaItem(
                _KINDS[found["_type"]], name, row["trainer/iteration"], _CONTENTS[found["_type"]](folder, found)
            )


def artifact_items(folder: Path) -> Iterator[MediaItem]:
    """Yield the artifacts in the files of a run, except for those of tables; W&B adds no version of equal content."""
    known = set()
    for each in records(folder, "artifact"):
        if each["type"] != "run_table" and (each["name"], each["digest"]) not in known:
            known.add((each["name"], each["digest"]))
            (alias,) = (alias for alias in each["aliases"] if alias != "latest")
            (file,) = each["manifest"]["contents"]
            name = each["name"].removesuffix(f"-{each['run_id']}")
            step = int(alias.removeprefix("iteration-"))
            yield MediaItem("artifact", name, step, Path(file["local_path"]).read_bytes())


_KINDS = {"html-file": "text", "table-file": "table", "image-file": "image", "histogram": "histogram"}


def _stored(folder: Path, medium: Mapping[str, Any]) -> bytes:
    # After a kill there may be two; the path contains the checksum.
    return next((folder / "wandb").glob(f"*run-*/files/{medium['path']}")).read_bytes()


def _text(folder: Path, medium: Mapping[str, Any]) -> str:
    shown = _stored(folder, medium).decode()
    return html.unescape(shown.partition('pre-wrap">')[2].removesuffix("</pre>"))


def _table(folder: Path, medium: Mapping[str, Any]) -> tuple[Any, ...]:
    table = json.loads(_stored(folder, medium))
    return tuple(table["columns"]), tuple(map(tuple, table["data"]))


_CONTENTS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "html-file": _text,
    "table-file": _table,
    "image-file": _stored,
    "histogram": lambda _, medium: (tuple(medium["bins"]), tuple(medium["values"])),
}


def open_sink(
    folder: Path, run: RunRecord | None = None, timeouts: Timeouts | None = None, **options: Any
) -> tuple[WandbSink, Opened]:
    """Open a new instance on a run, offline by default."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = WandbSink(WandbSink.Options(**{"mode": "offline"} | options))
    if timeouts is not None:
        sink.timeouts = timeouts
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def deliver(
    folder: Path, records: Sequence[Record], status: Any = "finished", reason: str = "", **options: Any
) -> WandbSink:
    """Write the records that W&B does not have yet with a new instance, and close it."""
    sink, found = open_sink(folder, **options)
    sink.sink_write([record for record in records if record.seq > (found.last_seq or 0)])
    sink.sink_close(status, reason)
    return sink


def seqs(folder: Path) -> list[int]:
    """Return the sequence numbers of all rows, in order."""
    return [row["telemetry/seq"] for row in rows(folder)]


def numbers_up_to(last: int) -> list[int]:
    """Return the numbers 1 to ``last``."""
    return list(range(1, last + 1))


def client_pids(parent: int | None = None) -> list[int]:
    """Return the IDs of the wandb-core processes started by a process, this one by default."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name, *arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        parent_argument = [b"--pid", str(parent or os.getpid()).encode()]
        if name.endswith(b"wandb-core") and arguments[-3:-1] == parent_argument:
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until the condition is true; fail after the given number of seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s"
        time.sleep(0.02)


def wandb_cli(folder: Path, *arguments: object) -> str:
    """Run the command ``wandb`` in a folder, and return its output."""
    command = [str(Path(sys.executable).with_name("wandb")), *map(str, arguments)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=folder
    )
    return done.stdout + done.stderr


def sync(folder: Path) -> str:
    """Sync all files of a run with ``wandb sync``, and return its output."""
    return wandb_cli(folder, "sync", "--yes", *sorted((folder / "wandb").glob("offline-run-*")))
