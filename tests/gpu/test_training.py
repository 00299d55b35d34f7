"""The training loop on a GPU: it waits for nothing, its memory does not grow, and too little memory is explained."""

import time
from pathlib import Path

import pytest
import torch

from aimnet2mult.errors import OutOfMemory
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.models.checkpoint_folder import find_newest
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.gpu import EVERY, Loop, fill_memory, watching
from support.labels import built_in
from support.sample_runs import train_part
from support.tiny_runs import points
from telemetry import read_receipt

pytestmark = pytest.mark.gpu

WARM_UP = 3
"""The first batches read the flag of the first step, and fill caches."""
PRECISIONS = {"float32": [], "bfloat16": ["trainer.precision=bfloat16"], "tf32": ["trainer.tf32=true"]}


def wait_is_an_error(device: torch.device, *, is_on: bool) -> None:
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if is_on else "default")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_iteration_of_an_epoch_waits_for_the_device(
    tmp_path: Path, device: torch.device, precision: str, parts: int
) -> None:
    """At due points, too: clipping, averaged weights, guarded steps, error sums and reporter are switched on."""
    if precision == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        pytest.skip("the device has no TF32")
    length = 40 * parts
    calls = []

    def before(number: int) -> None:
        calls.append(number)
        # The end of an epoch waits on purpose: it is the moment of the checkpoint.
        wait_is_an_error(device, is_on=WARM_UP * parts < number < length)

    try:
        with watching(before) as setting:
            options = [setting, *PRECISIONS[precision], "trainer.epochs=1", f"trainer.micro_batches={parts}"]
            loop = Loop(tmp_path, device, *options)
            assert loop.run() == "finished"
    finally:
        wait_is_an_error(device, is_on=False)
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    # In parts, the loss is called once more per batch, to count.
    assert len(calls) >= length
    found = points(tmp_path / "run", "train")
    assert sorted(found) == [10, 20, 30, 40]
    assert all(values["loss"] > 0 and values["F_rmse"] > 0 for values in found.values())


def test_a_wait_would_be_detected(cuda: torch.device) -> None:
    wait_is_an_error(cuda, is_on=True)
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            torch.ones((), device=cuda).item()
    finally:
        wait_is_an_error(cuda, is_on=False)


def test_a_snapshot_returns_at_once_and_has_the_values_of_its_time(cuda: torch.device) -> None:
    sums = ErrorSums(built_in("energy"), 1, cuda)
    true = {"energy": torch.zeros(4, device=cuda)}
    numbers = torch.ones((4, 2), dtype=torch.int64, device=cuda)
    arguments = (true, numbers, torch.zeros_like(numbers[:, 0]))
    # Warm up: first copies and first kernels.
    sums.update({"energy": torch.zeros(4, device=cuda)}, *arguments)
    sums.snapshot().wait()
    sums.reset(Slot.EPOCH)
    torch.cuda.synchronize()
    start = time.perf_counter()
    # A second or more on the device.
    torch.cuda._sleep(3_000_000_000)
    sums.update({"energy": torch.full((4,), 2.0, device=cuda)}, *arguments)
    first = sums.snapshot()
    sums.update({"energy": torch.full((4,), 4.0, device=cuda)}, *arguments)
    second = sums.snapshot()
    sums.reset(Slot.EPOCH)
    elapsed, was_done = time.perf_counter() - start, first.done
    squares = [snapshot.wait()[Slot.EPOCH][0] for snapshot in (first, second)]
    assert time.perf_counter() - start > 0.5, "the device was not busy"
    assert elapsed < 0.2
    assert not was_done
    assert squares == [4 * 2.0**2, 4 * 2.0**2 + 4 * 4.0**2]
    assert first.done


def test_the_memory_of_the_device_does_not_grow(tmp_path: Path, device: torch.device) -> None:
    used = {}

    def before(number: int) -> None:
        used[number] = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    # All groups have been seen in the first epoch.
    with watching(before) as setting:
        assert Loop(tmp_path, device, setting).run() == "finished"
    assert len(used) == 80
    first, second = (max(used[number] for number in half) for half in (range(1, 41), range(41, 81)))
    assert second <= first * 1.02


def test_batches_come_from_pinned_memory(tmp_path: Path, device: torch.device) -> None:
    loop = Loop(tmp_path, device)
    x, y = next(iter(loop.components.train_loader))
    loop.bus.close()
    assert {value.is_pinned() for value in (*x.values(), *y.values())} == {device.type == "cuda"}
    assert all(value.device.type == "cpu" for value in x.values())


def test_too_little_memory_ends_the_run_as_failed_and_it_can_be_resumed(
    tmp_path: Path, device: torch.device, capfd: pytest.CaptureFixture[str]
) -> None:
    def before(number: int) -> None:
        # In the second epoch.
        if number == 6 + EVERY // 3:
            fill_memory(device)

    with watching(before) as setting, pytest.raises(OutOfMemory, match=r"trainer\.micro_batches=2") as caught:
        train_part(tmp_path, f"device={device.type}", setting)
    assert "data.samplers.train.batch_size=8" in str(caught.value)
    (run,) = (tmp_path / "runs").iterdir()
    receipt = read_receipt(run)
    assert (receipt.status, receipt.reason.partition(":")[0]) == ("failed", "OutOfMemory")
    assert find_newest(run) is not None
    assert f"the newest checkpoint is {find_newest(run)}" in capfd.readouterr().err
    assert train(Request(resume=str(run), overrides=["trainer.micro_batches=2"])) == 0
    assert read_receipt(run).status == "finished"
