"""Write the golden runs of a format version: run folders written by this version of the code.

    python tools/make_golden_runs.py tests/data/golden-runs/v2
    python tools/make_golden_runs.py tests/data/golden-runs/v1 NAME...

The first command writes all runs, and the second adds some. Existing files are never replaced.

Only public names and commands are used, so the script remains valid when modules move.
The runs are created in ``/tmp/golden`` and then copied, because sinks record absolute paths. The hostname must be
``node01``: run the script, for example, as root with ``unshare --uts sh -c 'hostname node01; …'``.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from telemetry import Metric, MetricBus, Settings, open_run
from telemetry.sink_api import Opened, Record, Scalars, SinkRejected, hookimpl

WORK = Path("/tmp/golden")  # noqa: S108 - recorded in the runs, so it must not reveal the machine
HOST = "node01"
BOOT_ID = "00000000-0000-4000-8000-000000000001"
SEGMENT = 10**9
MEDIA = ("text", "table", "image", "histogram", "artifact")
INF, NAN = float("inf"), float("nan")
ENERGY = {"unit": "kcal/mol", "source_unit": "eV/particle"}
METRICS = {
    "train/loss": Metric(label="loss"),
    "train/E_rmse": Metric(**ENERGY, label="RMSE of energy"),
    "val/loss": Metric(label="loss", watch=True),
    "val/gfn1/E_rmse": Metric(**ENERGY, label="RMSE of energy, gfn1", watch=True),
}
DIRECTED = METRICS | {"val/loss": Metric(label="loss", better="lower", watch=True)}
"""With a metric that has a best value."""
MLP = {"n_in": 4, "n_out": 1, "key_in": "aim", "key_out": "energy"}
SUM = {"key_in": "energy", "key_out": "energy"}
MODEL = {
    "class": "aimnet.models.AIMNet2",
    "kwargs": {
        "nfeature": 2,
        "d2features": True,
        "ncomb_v": 2,
        "hidden": [[4], [4]],
        "aim_size": 4,
        "num_charge_channels": 2,
        "aev": {"rc_s": 5.0, "nshifts_s": 2},
        "outputs": {
            "energy_mlp": {
                "class": "aimnet.modules.Output",
                "kwargs": MLP | {"mlp": {"activation_fn": "torch.nn.GELU", "last_linear": True, "hidden": [4]}},
            },
            "atomic_shift": {"class": "aimnet.modules.AtomicShift", "kwargs": SUM},
            "atomic_sum": {"class": "aimnet.modules.AtomicSum", "kwargs": SUM},
        },
    },
}
TRAIN = {
    "run_name": "trained",
    "project_name": "golden",
    "threads": 1,
    "device": "cpu",
    "data": {
        "fidelity_datasets": {0: "data/gfn1.h5", 1: "data/spgfn2.h5"},
        "fidelity_names": {0: "gfn1", 1: "spgfn2"},
        "samplers": {"train": {"batch_size": 8, "batches_per_epoch": 5}, "val": {"batch_size": 16}},
    },
    "optimizer": {"class": "torch.optim.Adam", "kwargs": {"lr": 2.0e-3}},
    "checkpoint": {"keep": 1, "best": "loss"},
    "telemetry": {"every": 1},
}
SKIPPING = {
    **TRAIN,
    "run_name": "skipping",
    "data": {
        "fidelity_datasets": {0: "data/two-bad.h5"},
        "fidelity_names": {0: "gfn1"},
        "y": ["energy", "forces"],
        "samplers": TRAIN["data"]["samplers"],
        "on_bad_structure": "skip",
    },
    "optimizer": {"class": "torch.optim.SGD", "kwargs": {"lr": 1.0e-3}},
    "checkpoint": {"keep": 1, "best": None},
    "telemetry": {"every": 10},
}
SCHEDULED = {
    **SKIPPING,
    "run_name": "scheduled",
    "data": {
        "fidelity_datasets": {0: "data/linked.h5"},
        "fidelity_names": {0: "gfn1"},
        "y": ["energy"],
        "samplers": TRAIN["data"]["samplers"],
        "allow_external": True,
    },
    "telemetry": {"every": 10, "mode": "group"},
}
EVALUATED = {
    **TRAIN,
    "run_name": "evaluated",
    "data": {
        "fidelity_datasets": {0: "data/evaluated.h5"},
        "fidelity_names": {0: "gfn1"},
        "y": ["energy"],
        "test_fraction": 0.2,
        "samplers": TRAIN["data"]["samplers"],
    },
    "loss": {"kwargs": {"components": {"energy": {"weight": [[0, 1.0], [20, 0.5]]}}}},
    "trainer": {"ema_decay": 0.9, "early_stopping": {"metric": "loss"}, "evaluate_train_every": 1},
    "telemetry": {"every": 5},
}
LARGE = {
    **TRAIN,
    "run_name": "large",
    "data": {
        "fidelity_datasets": {0: "data/large.h5"},
        "fidelity_names": {0: "gfn1"},
        "y": ["energy", "forces"],
        "in_memory_gb": 0,
        "samplers": TRAIN["data"]["samplers"],
    },
    "telemetry": {"every": 5},
}
TASK = {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
TRIAL = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "trial-1", "WANDB_PROJECT": "water", "WANDB_ENTITY": "chemists"}
"""What ``wandb agent`` sets for a training of a sweep."""
BAD_ROWS = (3, 17)
"""Rows of ``two-bad.h5`` with two atoms at the same position."""


class MemorySink:
    """A sink that cannot report what it holds, so only its progress file knows; it rejects one record."""

    name = "memory"

    @hookimpl
    def sink_open(self) -> Opened:
        """Return a destination that does not depend on the machine."""
        return Opened(destination="memory")

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Reject the validation at iteration 60."""
        if any(isinstance(record, Scalars) and (record.stream, record.step) == ("val", 60) for record in records):
            msg = "the validation at 60 is not accepted"
            raise SinkRejected(msg)
        return records[-1].seq

    @hookimpl
    def sink_close(self) -> None:
        """Do nothing."""


def main(folder: Path, names: Sequence[str]) -> None:
    """Write the golden runs of these names, by default all, into ``folder``."""
    if socket.gethostname() != HOST:
        sys.exit(f"the hostname is {socket.gethostname()!r}, but must be {HOST!r}: run this script in a UTS namespace")
    shutil.rmtree(WORK, ignore_errors=True)
    runs = WORK / "runs"
    runs.mkdir(parents=True)
    os.chdir(WORK)
    makers = {
        "water": make_water,
        "killed": make_killed,
        "trained": make_trained,
        "reporting": make_reporting,
        "skipping": make_skipping,
        "scheduled": make_scheduled,
        "swept": make_swept,
        "evaluated": make_evaluated,
        "large": make_large,
        "media": make_media,
    }
    resumed = {"water": {1: 40, 3: 80}, "swept": {1: 40}, "media": {1: 20}}
    for name in names or makers:
        write_expected(makers[name](runs), resumed.get(name))
    clean(runs)
    shutil.copytree(WORK / "expected", runs / "expected")
    files = [path.relative_to(runs) for path in runs.rglob("*") if path.is_file()]
    if existing := [str(path) for path in files if (folder / path).exists()]:
        sys.exit(f"these files exist in {folder} and must not be replaced: {', '.join(existing)}")
    shutil.copytree(runs, folder, dirs_exist_ok=True)


def make_water(runs: Path) -> Path:
    """Write three attempts: killed, preempted after a disk fault, failed; deliver the first two to three sinks."""
    run = runs / "water"
    attempt(first_attempt, run)
    journal = run / "journal-0.jsonl"
    os.truncate(journal, journal.stat().st_size - 30)
    attempt(second_attempt, run)
    sinks = "tensorboard,wandb,mlflow"
    call("telemetry", "sync", run, "--telemetry-sinks", sinks, "-o", "wandb.mode=offline")
    attempt(third_attempt, run)
    return run


def make_killed(runs: Path) -> Path:
    """Write one attempt that is killed while a sink is open and leaves a torn last line."""
    run = runs / "killed"
    attempt(killed_attempt, run)
    with (run / "journal-0.jsonl").open("ab") as file:
        file.write(b'{"kind":"scalars","seq":9,"time":17')
    return run


def make_reporting(runs: Path) -> Path:
    """Write one attempt with a reported alert, a slow divergence, and values and points that cannot be recorded."""
    attempt(reporting_attempt, runs / "reporting")
    return runs / "reporting"


def make_trained(runs: Path) -> Path:
    """Train a very small model on two fidelities."""
    call("aimnet2mult", "sample-data", "sample")
    shrink(WORK / "sample", runs / "data")
    return train(runs, TRAIN, "tensorboard")


def make_skipping(runs: Path) -> Path:
    """Train a very small model on data with bad structures, which are left out."""
    import h5py

    call("aimnet2mult", "sample-data", "sample-skipping")
    (runs / "data").mkdir(exist_ok=True)
    with h5py.File(WORK / "sample-skipping" / "gfn1.h5") as whole:
        arrays = {key: values[:24] for key, values in whole["004"].items()}
    for row in BAD_ROWS:
        arrays["coord"][row, 1] = arrays["coord"][row, 0]
    with h5py.File(runs / "data" / "two-bad.h5", "w", libver="latest") as file:
        for key, values in arrays.items():
            file[f"004/{key}"] = values
    run = train(runs, SKIPPING, "none")
    path = run / "skipped-structures.csv"
    path.write_text(path.read_text().replace(str(runs), ".."))
    return run


def make_scheduled(runs: Path) -> Path:
    """Train a very small model in a task of a SLURM job array, for the group, on a file that is a link to another."""
    import h5py

    call("aimnet2mult", "sample-data", "sample-scheduled")
    (runs / "data").mkdir(exist_ok=True)
    with (
        h5py.File(WORK / "sample-scheduled" / "gfn1.h5") as whole,
        h5py.File(runs / "data" / "external.h5", "w", libver="latest") as file,
    ):
        for key in ("coord", "numbers", "charge", "energy"):
            file[f"004/{key}"] = whole[f"004/{key}"][:24]
    with h5py.File(runs / "data" / "linked.h5", "w", libver="latest") as file:
        file["004"] = h5py.ExternalLink("external.h5", "004")
    return train(runs, SCHEDULED, "none", **TASK)


def make_evaluated(runs: Path) -> Path:
    """Train a very small model with all evaluations, average weights, early stopping and changing loss weights."""
    import h5py

    call("aimnet2mult", "sample-data", "sample-evaluated")
    (runs / "data").mkdir(exist_ok=True)
    with (
        h5py.File(WORK / "sample-evaluated" / "gfn1.h5") as whole,
        h5py.File(runs / "data" / "evaluated.h5", "w", libver="latest") as file,
    ):
        for key in ("coord", "numbers", "charge", "energy"):
            file[f"004/{key}"] = whole[f"004/{key}"][:24]
    return train(runs, EVALUATED, "none")


def make_large(runs: Path) -> Path:
    """Train a very small model on data that are read from the file batch by batch."""
    import h5py

    call("aimnet2mult", "sample-data", "sample-large")
    (runs / "data").mkdir(exist_ok=True)
    with (
        h5py.File(WORK / "sample-large" / "gfn1.h5") as whole,
        h5py.File(runs / "data" / "large.h5", "w", libver="latest") as file,
    ):
        for key in ("coord", "numbers", "charge", "energy", "forces"):
            file[f"004/{key}"] = whole[f"004/{key}"][:24]
    return train(runs, LARGE, "none")


def make_swept(runs: Path) -> Path:
    """Write two attempts, the first of which is delivered to W&B under ``wandb agent``."""
    run = runs / "swept"
    attempt(swept_attempt, run)
    call("telemetry", "sync", run, "--telemetry-sinks", "wandb", "-o", "wandb.mode=offline", **TRIAL)
    attempt(continued_attempt, run)
    return run


def make_media(runs: Path) -> Path:
    """Write two attempts with media of all kinds and later parameters; the second replaces those of iteration 40."""
    run = runs / "media"
    attempt(first_media_attempt, run)
    attempt(second_media_attempt, run)
    return run


def train(runs: Path, settings: dict[str, Any], sinks: str, **environment: str) -> Path:
    """Train for two epochs; also record the losses of four uninterrupted epochs."""
    name = settings["run_name"]
    (runs / "train.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (runs / "model.yaml").write_text(yaml.safe_dump(MODEL, sort_keys=False))
    command = ("aimnet2mult", "train", "--config", runs / "train.yaml", "--model", runs / "model.yaml")
    whole_folder = WORK / f"whole-{name}"
    call(*command, "--telemetry-sinks", "none", "--telemetry-dir", whole_folder, "trainer.epochs=4")
    call(*command, "--telemetry-sinks", sinks, "--telemetry-dir", runs, "trainer.epochs=2", **environment)
    (whole,) = whole_folder.glob(f"{name}-*")
    (run,) = runs.glob(f"{name}-*")
    points = [line for line in Lines(whole).records if line["kind"] == "scalars" and line["stream"] == "val"]
    put(WORK / "expected" / f"{name}-whole.json", {line["step"]: line["values"]["loss"] for line in points})
    config = run / "train.yaml"
    config.write_text(config.read_text().replace(str(runs), ".."))
    return run


def shrink(sample: Path, out: Path) -> None:
    """Copy 24 molecules with four atoms from each file of the sample data."""
    import h5py

    out.mkdir()
    for name in ("gfn1.h5", "spgfn2.h5"):
        with h5py.File(sample / name) as whole, h5py.File(out / name, "w", libver="latest") as part:
            for key, values in whole["004"].items():
                part[f"004/{key}"] = values[:24]


def attempt(body: Any, run: Path) -> None:
    """Run one attempt in a separate process."""
    if (child := os.fork()) == 0:
        body(run)
        os._exit(0)
    os.waitpid(child, 0)


def open_attempt(
    run: Path, resume_step: int | None = None, sinks: Sequence[object] = (), metrics: Mapping[str, Metric] = METRICS
) -> MetricBus:
    """Open a run, or resume it after ``resume_step``."""
    return open_run(
        run,
        metrics=metrics,
        name=run.name,
        project="golden",
        params={"seed": 7, "optimizer": {"lr": 1e-3}, "files": ["gfn1.h5", "spgfn2.h5"]},
        versions={"trainer": "1.0"},
        settings=Settings(every=10, poll=0.1),
        resume_step=resume_step,
        sinks=sinks,
    )


def publish(bus: MetricBus, first: int, last: int, **overrides: float) -> None:
    """Publish a training point every ten iterations, a validation every twenty; ``overrides`` replace values."""
    for step in range(first, last + 1, 10):
        train = {"loss": 100 / step, "E_rmse": overrides.get(f"E_rmse_{step}", 10 / step)}
        bus.publish("train", step, train)
        if not step % 20:
            bus.publish("val", step, {"loss": overrides.get(f"val_{step}", 120 / step), "gfn1/E_rmse": 11 / step})
        bus.flush(20)


def first_attempt(run: Path) -> None:
    """Publish iterations 10 to 60, then be killed."""
    bus = open_attempt(run)
    publish(bus, 10, 40, val_20=NAN, E_rmse_30=INF)
    bus.alert("learning rate halved", "no progress since iteration 10", step=40, level="info")
    publish(bus, 50, 50)
    bus.alert("superseded by the second attempt", step=50)
    publish(bus, 60, 60)
    bus.flush(20)
    os.kill(os.getpid(), signal.SIGKILL)


def second_attempt(run: Path) -> None:
    """Publish iterations 50 to 100 on a disk that fails once, then be preempted."""
    bus = open_attempt(run, resume_step=40, sinks=[MemorySink()])
    publish(bus, 50, 60)
    with failing_disk():
        publish(bus, 70, 70, E_rmse_70=-INF)
    publish(bus, 80, 90)
    bus.alert("superseded by the third attempt", step=90, level="error")
    publish(bus, 100, 100, val_100=0.001)
    bus.close("preempted", reason="SIGTERM", timeout=30)


def third_attempt(run: Path) -> None:
    """Publish iterations 90 to 130, then fail."""
    bus = open_attempt(run, resume_step=80)
    publish(bus, 90, 130)
    bus.alert("gradient clipped", "norm 12.5, limit 0.3", step=130)
    bus.close("failed", reason="RuntimeError: out of memory")


def killed_attempt(run: Path) -> None:
    """Publish and deliver iterations 10 to 50, then be killed."""
    bus = open_attempt(run, sinks=[MemorySink()])
    publish(bus, 10, 50)
    bus.drain(30)
    os.kill(os.getpid(), signal.SIGKILL)


def swept_attempt(run: Path) -> None:
    """Publish iterations 10 to 60, the best validation at 60, then be preempted."""
    bus = open_attempt(run, metrics=DIRECTED)
    publish(bus, 10, 60, val_60=0.5)
    bus.close("preempted", reason="SIGTERM")


def continued_attempt(run: Path) -> None:
    """Publish iterations 50 to 80, with worse validations, then finish."""
    bus = open_attempt(run, resume_step=40, metrics=DIRECTED)
    publish(bus, 50, 80)
    bus.close("finished")


def first_media_attempt(run: Path) -> None:
    """Publish points and media up to iteration 40, then be preempted."""
    bus = open_attempt(run)
    bus.params({"seed": 8, "note": "added later"})
    for step in (20, 40):
        publish(bus, step - 10, step)
        publish_media(bus, step, "first")
    bus.close("preempted", reason="SIGTERM")


def second_media_attempt(run: Path) -> None:
    """Resume after iteration 20, and publish points and media at 40 again."""
    bus = open_attempt(run, resume_step=20)
    publish(bus, 30, 40)
    publish_media(bus, 40, "second")
    bus.close("finished")


def publish_media(bus: MetricBus, step: int, word: str) -> None:
    """Publish one record of each kind; ``word`` makes the contents differ."""
    weights = WORK / "weights.pt"
    weights.write_bytes(f"{word} {step}".encode() * 10)
    bus.text("setup/notes", step, f"# Notes\n\n* {word} `{step}` é")
    bus.table("val/by_element", step, ["element", "RMSE", "atoms"], [["H", 0.5, 12], ["C", NAN, 3], [word, None, True]])
    shades = [[0.0, 0.5, 1.0], [1.0, 0.5, step / 100]]
    bus.image("val/parity/E", step, np.array(shades), caption=f"parity of energy, {word}")
    bus.histogram("val/gfn1/E_rmse", step, [0.0, 0.25, 1.0, NAN])
    bus.histogram("val/residuals", step, edges=[-1, 0, 2], counts=[3, step])
    bus.artifact("weights/best", step, weights, type="model")
    bus.text("setup/notes", -1, "lost: there is no such iteration")
    bus.flush(20)


def reporting_attempt(run: Path) -> None:
    """Publish a loss that falls and then jumps to a level where it stays; end as failed."""
    bus = open_run(
        run,
        metrics={
            "train/loss": Metric(label="loss", better="lower", watch=True),
            "val/E_r2": Metric(label="R² of energy", better="higher"),
        },
        name=run.name,
        project="golden",
        settings=Settings(every=1),
        sinks=[],
    )
    losses = [1.0 - 0.02 * step for step in range(1, 22)] + [20.0] * 14
    for step, loss in enumerate(losses, start=1):
        bus.publish("train", step, {"loss": loss})
    bus.publish("val", 35, {"E_r2": 0.25, "F_r2": 0.5})
    bus.publish("val", 35.5, {"E_r2": 0.25})  # type: ignore[arg-type]
    bus.publish("val", 36, {"E_r2": "high"})  # type: ignore[dict-item]
    bus.alert("step 35 skipped: loss or gradient is not finite", "gfn1.h5, group 004, row 3", step=35)
    bus.close("failed", reason="diverged")


@contextlib.contextmanager
def failing_disk() -> Iterator[None]:
    """Make one fdatasync fail; its records are written again, to the next segment."""
    real, faults = os.fdatasync, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fdatasync(fd: int) -> None:
        if faults:
            raise faults.pop()
        real(fd)

    os.fdatasync = fdatasync
    try:
        yield
    finally:
        os.fdatasync = real


def call(*command: object, **environment: str) -> None:
    """Run a command from PATH in an environment without the user's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env = kept | {"HOME": str(WORK), "USER": "user", "LOGNAME": "user", "WANDB_ERROR_REPORTING": "false"} | environment
    subprocess.run(list(map(str, command)), check=True, env=env)


def clean(runs: Path) -> None:
    """Remove files that are not part of the format and traces of the machine; dump the database as text."""
    for path in runs.rglob("*"):
        if path.name == "alive.json" or ".lease-" in path.name:
            path.write_text(re.sub(r'"kernel":"[^/]*/', f'"kernel":"{BOOT_ID}/', path.read_text()))
    for path in [*runs.rglob("debug*.log"), *runs.rglob("*.tmp"), *runs.rglob("latest-run")]:
        path.unlink()
    if (database := runs / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(database)) as store:
            dump = "\n".join(store.iterdump())
        (runs / "mlflow.sql").write_text(f"-- MLflow {version('mlflow')}\n" + dump.replace("'root'", "'user'") + "\n")
    for name in ("mlflow.db", "train.yaml", "model.yaml"):
        (runs / name).unlink(missing_ok=True)
    for name in ("mlartifacts", "data-cache"):
        shutil.rmtree(runs / name, ignore_errors=True)


class Lines:
    """Return the records of a journal, read with the json module only."""

    def __init__(self, run: Path) -> None:
        self.heads: list[dict[str, Any]] = []
        self.damaged = self.repeated = 0
        found: dict[int, dict[str, Any]] = {}
        for path in sorted(run.glob("journal-*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                body, _, crc = line.rpartition(b',"crc":')
                if crc != b'"%08x"}\n' % zlib.crc32(body):
                    self.damaged += 1
                    continue
                record = json.loads(line)
                if record["kind"] == "run":
                    self.heads.append(record)
                elif record["seq"] in found:
                    self.repeated += 1
                else:
                    found[record["seq"]] = record
        self.records = [found[seq] for seq in sorted(found)]


def write_expected(run: Path, resumed: dict[int, int] | None = None) -> None:
    """Write the expected contents of a run.

    Args:
        run: the run folder.
        resumed: by segment, the iteration after which an attempt resumed in it.
    """
    lines = Lines(run)
    name = run.name.partition("-")[0]

    def superseded(record: dict[str, Any]) -> bool:
        later = [step for segment, step in (resumed or {}).items() if segment > record["seq"] // SEGMENT]
        return record["kind"] in {"scalars", "alert", *MEDIA} and record["step"] > min(later, default=record["step"])

    counting = [record for record in lines.records if not superseded(record)]
    data = [record for record in counting if record["kind"] != "closed"]
    end = lines.records[-1]
    fields = ("step", "title", "text", "level", "cause", "metric")
    media = [
        [record["kind"], record["name"], record["step"], record.get("blob", {}).get("sha256"), record["seq"]]
        for record in data
        if record["kind"] in MEDIA
    ]
    put(
        WORK / "expected" / f"{name}.json",
        {
            "folder": run.name,
            "run_id": lines.heads[-1]["run_id"],
            "attempt": lines.heads[-1]["attempt"],
            "status": end.get("status"),
            "reason": end.get("reason", ""),
            "skipped": {
                "damaged": lines.damaged,
                "repeated": lines.repeated,
                "superseded": len(lines.records) - len(counting),
            },
            "seqs": [record["seq"] for record in data],
            "last_step": max(
                record.get("step", 0) for record in data if record["seq"] // SEGMENT == end["seq"] // SEGMENT
            ),
            "alerts": [{key: record[key] for key in fields if key in record} for record in data if "title" in record],
            **({"media": media} if media else {}),
        },
    )
    with (WORK / "expected" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "seq", "stream", "step", "time", "name", "value", "unit", "superseded"])
        for record in lines.records:
            for key, value in record.get("values", {}).items():
                full = f"{record['stream']}/{key}"
                where = [lines.heads[-1]["run_id"], record["seq"], record["stream"], record["step"], record["time"]]
                unit = lines.heads[-1]["metrics"][full].get("unit", "1")
                writer.writerow([*where, full, value, unit, superseded(record)])


def put(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
