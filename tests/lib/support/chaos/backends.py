"""The backends of the chaos suite: how each sink is configured, and which points its backend shows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from support.telemetry_fakes import lines_of
from telemetry.sink_api import Scalars

Records = Mapping[int, Scalars]


class Backend(Protocol):
    """One sink of a run."""

    name: str

    def options(self, folder: Path) -> dict[str, Any]:
        """Return the options of the sink for a run below ``folder``, and create the folders they refer to."""

    def shown(self, run: Path, records: Records) -> list[int]:
        """Return the sequence number of each point shown, including duplicates."""

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check further properties of a backend that has received all valid records."""


class Recording:
    """A sink that writes one line per record."""

    def __init__(self, name: str = "file") -> None:
        self.name = name
        self.folder = Path()

    def options(self, folder: Path) -> dict[str, Any]:
        self.folder = folder / self.name
        return {"backend": str(self.folder)}

    def shown(self, run: Path, records: Records) -> list[int]:
        rows = [line.split() for line in lines_of(self.folder / "rows")]
        return [int(row[0]) for row in rows if row[2:] == ["train"]]

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check nothing more."""


class TensorBoard:
    """Event files in the run folder."""

    name = "tensorboard"

    def options(self, folder: Path) -> dict[str, Any]:
        return {}

    def shown(self, run: Path, records: Records) -> list[int]:
        from tensorboard.compat.proto.event_pb2 import Event

        from sinks.tensorboard.frames import read_frames

        found = []
        for path in sorted((run / "tensorboard").glob("*tfevents*")):
            for frame in read_frames(path):
                event = Event.FromString(frame)
                _, mark, seq = event.source_metadata.writer.partition("seq=")
                # The others are restarts and alerts (texts).
                if mark and any(value.HasField("simple_value") for value in event.summary.value):
                    found.append(int(seq))
        return found

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check that the viewer shows one curve without gaps or duplicates, with the latest values and their times."""
        expected = [(r.step, r.values["loss"], r.time) for r in valid]
        assert self._curve(run / "tensorboard", "train/loss") == expected
        assert self._curve(run / "tensorboard" / "train", "1 overall/1 loss") == expected

    @staticmethod
    def _curve(folder: Path, tag: str) -> list[tuple[int, float, int]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
        events = accumulator.Scalars(tag) if tag in accumulator.Tags()["scalars"] else []
        return [(e.step, e.value, round(e.wall_time * 1000)) for e in events]


class WandbOffline:
    """Offline files of W&B in the run folder."""

    name = "wandb"

    def options(self, folder: Path) -> dict[str, Any]:
        return {"mode": "offline"}

    def shown(self, run: Path, records: Records) -> list[int]:
        from support.wandb_kit import rows

        return [int(row["telemetry/seq"]) for row in rows(run) if "telemetry/seq" in row]

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check nothing more."""


@dataclass
class WandbOnline:
    """A run on the W&B server given by the environment."""

    server: Any
    name: str = "wandb"
    project: str = ""

    def options(self, folder: Path) -> dict[str, Any]:
        self.project = folder.name
        return {"mode": "online", "project": folder.name}

    def shown(self, run: Path, records: Records) -> list[int]:
        found = [r for (project, _), r in self.server.runs.items() if project == self.project]
        assert len(found) <= 1
        return [int(row["telemetry/seq"]) for r in found for row in r.history if "telemetry/seq" in row]

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check nothing more."""


@dataclass
class Mlflow:
    """An MLflow run in a copy of ``template`` next to the run folders, or on the server at ``address``."""

    template: Path | None = None
    address: str | None = None
    name: str = "mlflow"
    experiment: str = "Default"

    def options(self, folder: Path) -> dict[str, Any]:
        if self.template is not None:
            (folder / "runs").mkdir(exist_ok=True)
            shutil.copy(self.template, folder / "runs" / "mlflow.db")
            return {}
        self.experiment = str(folder)
        return {"tracking_uri": self.address, "experiment": self.experiment}

    def shown(self, run: Path, records: Records) -> list[int]:
        from support.mlflow_kit import client_of, history, quiet

        by_point = {(r.step, r.values["loss"], r.time): seq for seq, r in records.items()}
        with quiet():
            client = client_of(self.address or f"sqlite:///{run.parent / 'mlflow.db'}")
            experiment = client.get_experiment_by_name(self.experiment)
            found = client.search_runs([experiment.experiment_id])
            assert len(found) == 1, "a single run, however often it was created"
            return [by_point.get(point, -1) for point in history(client, found[0].info.run_id)]

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check nothing more."""


class Postgres:
    """The table of ``examples/telemetry-sink-postgres`` on the server given by the environment."""

    name = "postgres"

    def options(self, folder: Path) -> dict[str, Any]:
        return {}

    def shown(self, run: Path, records: Records) -> list[int]:
        import psycopg

        with psycopg.connect() as db:
            rows = db.execute("SELECT seq, step, value FROM telemetry").fetchall()
        expected = {seq: (record.step, record.values["loss"]) for seq, record in records.items()}
        return [seq if expected.get(seq) == tuple(point) else -1 for seq, *point in rows]

    def check(self, run: Path, valid: Sequence[Scalars]) -> None:
        """Check that superseded points are not shown."""
        assert sorted(self.shown(run, {r.seq: r for r in valid})) == [r.seq for r in valid]
