"""Too little memory ends a run as failed, with a message that names the settings that need less."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from aimnet2mult.cli import cli
from aimnet2mult.cli.console import run
from aimnet2mult.errors import OutOfMemory
from aimnet2mult.models.checkpoint_folder import find_newest
from aimnet2mult.train.out_of_memory import explaining_memory
from support import tiny_model
from support.tiny_runs import train_tiny
from telemetry import read_receipt

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 10.00 GiB of which 3.00 GiB is "
    "free. Including non-PyTorch memory, this process has 7.00 GiB memory in use. If reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF"
)
SHORT = CUDA.partition(" Including")[0].rstrip(".")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError(CUDA), f"{SHORT}; use less"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "can't allocate memory; use less"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "CUBLAS_STATUS_ALLOC_FAILED; use less"),
        (MemoryError(), "out of memory; use less"),
    ],
)
def test_the_remedy_replaces_the_advice_of_torch(error: Exception, message: str) -> None:
    with pytest.raises(OutOfMemory) as caught, explaining_memory("use less"):
        raise error
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)


def test_other_errors_and_explained_ones_are_unchanged() -> None:
    for error in (RuntimeError("shapes do not fit"), OutOfMemory("in a validation; reduce this"), ValueError("x")):
        with pytest.raises(type(error)) as caught, explaining_memory("use less"):
            raise error
        assert caught.value is error


def train_with_too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of four epochs of three iterations whose second epoch needs more memory than any machine has."""
    real, calls = tiny_model.SquaredLoss.__call__, itertools.count(1)

    def need_memory(*arguments: Any) -> dict[str, torch.Tensor]:
        # The first epoch has three batches, and one of validation.
        if next(calls) == 3 + 1 + 2:
            torch.empty(1 << 52, dtype=torch.uint8)
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tiny_model.SquaredLoss, "__call__", need_memory)
        with pytest.raises(OutOfMemory, match=r"allocate.*; resume with trainer\.micro_batches=2, .*batch_size=4"):
            train_tiny(folder, "loss.class=support.tiny_model.SquaredLoss")
    (run_folder,) = (folder / "runs").iterdir()
    return run_folder


def test_the_run_has_failed_and_keeps_its_checkpoint_which_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing_run = train_with_too_little_memory(tmp_path, monkeypatch)
    receipt = read_receipt(failing_run)
    assert receipt.status == "failed"
    assert receipt.reason.startswith("OutOfMemory: ")
    newest = find_newest(failing_run)
    assert newest is not None
    assert f"the newest checkpoint is {newest}\n" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run(cli, "aimnet2mult", ["train", "--resume", str(failing_run)])
    assert ended.value.code == 0
    assert read_receipt(failing_run).status == "finished"


def test_the_command_prints_one_line_and_no_traceback(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def fail(*_: Any) -> int:
        raise OutOfMemory("too large; use less")

    monkeypatch.setattr("aimnet2mult.train.runner.train", fail)
    with pytest.raises(SystemExit) as ended:
        run(cli, "aimnet2mult", ["train", "data.fidelity_datasets.0=a.h5"])
    assert ended.value.code == 1
    assert capfd.readouterr().err.splitlines()[-1] == "error: too large; use less"
