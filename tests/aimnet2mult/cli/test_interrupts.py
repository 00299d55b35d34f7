"""Ctrl-C at any time ends the command without a traceback, with exit code 130; signals of batch systems, with 143."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from aimnet2mult.cli.sample_data import SAMPLE
from telemetry import read_receipt

COMMAND = [sys.executable, "-u", "-m", "aimnet2mult.cli", "train", "--config", str(SAMPLE / "train.yaml")]
COMMAND += ["--model", str(SAMPLE / "model.yaml"), "--telemetry-every", "1"]


def interrupt(folder: Path, *options: str, after: Sequence[str]) -> tuple[int, str]:
    """Start the command, and send SIGINT each time that its output contains the next of the texts ``after``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    process = subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said, expected = "", list(after)
    for line in process.stdout:
        said += line
        while expected and expected[0] in line:
            process.send_signal(signal.SIGINT)
            del expected[0]
    process.stdout.close()
    assert not expected
    return process.wait(timeout=60), said


@pytest.mark.slow
def test_ctrl_c_while_libraries_are_imported_prints_the_receipt(tmp_path: Path) -> None:
    code, said = interrupt(tmp_path, "--telemetry-sinks", "none", after=["loading torch"])
    assert code == 130
    assert "Traceback" not in said
    assert "telemetry: 0 records offered" in said
    assert "stopped by SIGINT; resume with: aimnet2mult train --resume" in said
    assert "Warp" not in said


@pytest.mark.slow
def test_two_ctrl_c_during_training_end_the_run_as_killed_or_preempted(tmp_path: Path) -> None:
    code, said = interrupt(tmp_path, "--telemetry-sinks", "none", after=["epoch 1/", "epoch 1/"])
    assert code == 130
    assert "Traceback" not in said
    assert "records offered" in said
    (run,) = (tmp_path / "runs").iterdir()
    # The second one may arrive while the run is being closed as preempted.
    assert read_receipt(run).status in ("killed", "preempted")


IMPORTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "aimnet2mult.cli.train":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Finder())
from aimnet2mult.cli import main
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_while_the_command_is_imported_ends_it_silently(number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", IMPORTING, str(number.value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_signals_are_handled_as_before_after_the_imports() -> None:
    code = (
        "import signal; numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2; "
        "before = [signal.getsignal(n) for n in numbers]; import aimnet2mult.cli; "
        "print([signal.getsignal(n) for n in numbers] == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


CONCLUDED = """
import os, signal, sys, click
import aimnet2mult.cli as cli

@cli.cli.command()
def finished():
    click.echo("done")

class AtExit:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)

sys.last = AtExit()
sys.argv = ["aimnet2mult", "finished"]
cli.main()
"""


def test_a_signal_while_the_interpreter_shuts_down_does_not_change_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", CONCLUDED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
