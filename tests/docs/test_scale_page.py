"""The launch commands on the page about distributed training work; those for one machine are executed."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.ports import free_port
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed, Scalars

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ONE, FIRST, SECOND = BLOCKS

# The real model on the sample data, for a few iterations.
SHORT = "--threads 1 --telemetry-sinks none --telemetry-every 2 trainer.epochs=2"
SHORT += " data.samplers.train.batches_per_epoch=3"

Points = dict[tuple[str, int, str], float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale")
    start(path, "aimnet2mult sample-data data").wait(60)
    return path


def start(folder: Path, command: str) -> subprocess.Popen[bytes]:
    """Start a command from the page, with its output in a file."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TELEMETRY"))}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            shlex.split(command.replace("\\\n", " ")),
            cwd=folder,
            env={**environment, "PATH": path, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def wait_for_exit(processes: list[subprocess.Popen[bytes]]) -> list[int | None]:
    """Wait for the processes and return their exit codes; terminate those that do not exit in time, with None."""
    deadline = time.monotonic() + 150
    codes: list[int | None] = []
    for process in processes:
        try:
            codes.append(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            codes.append(None)
    for process, code in zip(processes, codes, strict=True):
        if code is None:
            # torchrun forwards the signal to its workers.
            process.terminate()
            process.wait(60)
    return codes


def train(folder: Path, name: str, *commands: str) -> Points:
    """Run the commands concurrently, in a separate folder of runs, and return the points of their run."""
    (folder / "log").write_text("")
    processes = [start(folder, f"{command} {SHORT} --telemetry-dir {name}") for command in commands]
    codes = wait_for_exit(processes)
    assert codes == [0] * len(commands), (folder / "log").read_text()
    (run,) = (folder / name).iterdir()
    records = JournalReader(run).read(100_000, live=False)
    assert isinstance(records[-1], Closed)
    assert records[-1].status == "finished"
    return {
        (record.stream, record.step, metric): value
        for record in records
        if isinstance(record, Scalars)
        for metric, value in record.values.items()
        if metric != "it_per_s"
    }


@pytest.mark.slow
def test_one_machine_and_several_machines_produce_the_curves_of_one_process(folder: Path) -> None:
    alone = train(folder, "alone", ONE.partition("--no-python ")[2])
    assert len(alone) > 100
    one = train(folder, "one", ONE)
    port = str(free_port())
    several = train(folder, "several", FIRST.replace("29511", port), SECOND.replace("29511", port))
    for points in (one, several):
        assert points.keys() == alone.keys()
        # In single precision, batches of different sizes are summed in a different order.
        for key, value in alone.items():
            assert points[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


@pytest.mark.slow
def test_a_configuration_error_is_reported_once_and_ends_all_processes(folder: Path) -> None:
    (folder / "log").write_text("")
    process = start(folder, f"{ONE.strip()} trainer.epoch=3 --telemetry-dir mistaken")
    assert process.wait(60) == 1
    output = (folder / "log").read_text()
    assert output.count("Did you mean 'trainer.epochs'?") == 1
    assert not (folder / "mistaken").exists()
