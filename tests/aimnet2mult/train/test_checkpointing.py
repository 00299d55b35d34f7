"""Checkpoints are written completely or not at all, restore everything, and are rejected if they do not fit."""

import errno
import io
import os
import random
import stat
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.models.checkpoint_folder import checkpoint_path
from aimnet2mult.train.checkpoint_file import load_checkpoint, write_checkpoint
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.restoring import Stateful
from support.file_contents import read_content
from support.tiny_runs import build_tiny
from telemetry import NullBus

# ---- files


def trained() -> dict[str, Any]:
    """Return a model, its optimizer and scheduler after two steps."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(4, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def write(run: Path, iteration: int, state: Mapping[str, Stateful] | None = None) -> Path:
    path = checkpoint_path(run, iteration)
    write_checkpoint(path, state or {}, {"iteration": iteration, "epoch": 1})
    return path


def test_a_checkpoint_restores_every_object_and_the_position(tmp_path: Path) -> None:
    before, after = trained(), trained()
    assert not equal(before["model"].state_dict(), after["model"].state_dict())
    path = write(tmp_path, 1200, before)
    assert load_checkpoint(path, after) == {"iteration": 1200, "epoch": 1}
    for name, part in before.items():
        assert equal(part.state_dict(), after[name].state_dict())


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.gauss(), random.random(), np.random.normal(), float(torch.rand(1))]  # noqa: NPY002

    random.gauss()  # half of a pair: the generator now holds the other half
    np.random.normal()  # noqa: NPY002
    path = write(tmp_path, 1)
    expected = draw()
    draw()
    load_checkpoint(path, {})
    assert draw() == expected


def full_disk(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_raises_and_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = write(tmp_path, 100)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(function, full_disk)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 100, trained())
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 200)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_created_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 100)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 200)
    assert list(path.parent.iterdir()) == [path]


def kind_of(fd: int) -> str:
    return "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"


def test_the_file_and_both_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append((kind_of(fd), Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    path = write(tmp_path, 100)
    # The run folder contains the name of the new folder of checkpoints.
    assert [kind for kind, _ in synced] == ["folder", "file", "folder"]
    assert [synced[0][1], synced[-1][1]] == [tmp_path, path.parent]
    del synced[:]
    write(tmp_path, 200)
    assert [kind for kind, _ in synced] == ["file", "folder"]


def test_a_file_system_that_refuses_to_sync_folders_is_tolerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse(fd: int) -> None:
        if kind_of(fd) == "folder":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    assert load_checkpoint(write(tmp_path, 100), {})["iteration"] == 100


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o755, 0o600), (0o750, 0o640)])
def test_a_checkpoint_is_as_accessible_as_the_run_folder(tmp_path: Path, folder: int, file: int) -> None:
    tmp_path.chmod(folder)
    assert write(tmp_path, 1).stat().st_mode & 0o777 == file


def test_a_checkpoint_of_another_model_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"model": nn.Linear(3, 1)})
    with pytest.raises(CheckpointError, match=r"step-00000001.pt does not fit this run: .*size mismatch"):
        load_checkpoint(path, {"model": nn.Linear(4, 1)})
    with pytest.raises(CheckpointError, match="optimizer"):
        load_checkpoint(path, {"optimizer": nn.Linear(3, 1)})


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Untrusted:
        def state_dict(self) -> dict[str, Any]:
            return {"a": Path("a")}

        def load_state_dict(self, state_dict: Any, /) -> None:
            raise AssertionError(state_dict)

    path = write(tmp_path, 1, {"untrusted": Untrusted()})
    with pytest.raises(CheckpointError, match=r"step-00000001.pt: .* contains other objects than tensors"):
        load_checkpoint(path, {"untrusted": Untrusted()})


# ---- checkpoints of a run


class FakeValidation:
    """The progress of a validation, without any."""

    pending = False

    def state_dict(self) -> dict[str, Any]:
        return {"owes_validation": self.pending, "best": {"metric": "loss", "value": 0.5}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pending = state["owes_validation"]


class FakeBus(NullBus):
    """A bus that counts its flushes."""

    def __init__(self) -> None:
        super().__init__(1)
        self.flushed = 0

    def flush(self, timeout: float | None = None, *, media: bool = True) -> bool:
        self.flushed += 1
        return True


class TinyRun:
    """The checkpoints of a tiny model that is never trained."""

    def __init__(self, folder: Path, *overrides: str, communicator: Communicator | None = None) -> None:
        communicator = communicator or Communicator()
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)
        config, self.components = build_tiny(folder, *overrides, communicator=communicator)
        self.validation: Any = FakeValidation()
        self.bus = FakeBus()
        self.output = io.StringIO()
        self.checkpointing = Checkpointing(
            self.folder,
            self.components,
            config,
            evaluations=self.validation,
            bus=self.bus,
            communicator=communicator,
            console=Console({}, epochs=4, stream=self.output),
        )

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").glob("*"))


def spoil(components: Components) -> None:
    with torch.no_grad():
        next(components.model.parameters()).fill_(torch.nan)


def test_a_checkpoint_has_the_documented_keys(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    assert not run.checkpointing.problem
    run.checkpointing.save(5)
    path = checkpoint_path(run.folder, 5)
    content = read_content(path)
    assert content["versions"] == {name: version(name) for name in ("aimnet2mult", "aimnet", "torch", "numpy")}
    assert content.keys() == {"parts", "position", "random", "versions", "description"}
    assert content["parts"].keys() == {"model", "optimizer", "schedule", "sums"}
    assert content["position"] == {
        "iteration": 5,
        "epoch": 2,
        "epoch_length": 3,
        "data": run.components.data.fingerprint(),
        "samplers": {"batch_size": 4, "batch_mode": "molecules", "batches_per_epoch": None},
        "owes_validation": False,
        "best": {"metric": "loss", "value": 0.5},
    }


def test_packages_that_are_not_installed_do_not_prevent_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_found(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("aimnet2mult.train.checkpoint_file.version", not_found)
    content = read_content(write(tmp_path, 1))
    assert set(content["versions"].values()) == {"not installed"}


def test_loading_restores_the_weights_and_the_validation_and_returns_the_iteration(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.validation.pending = True
    run.checkpointing.save(5)
    other = TinyRun(tmp_path)
    spoil(other.components)
    assert other.checkpointing.load(checkpoint_path(run.folder, 5)) == 5
    assert other.validation.pending
    assert equal(other.components.model.state_dict(), run.components.model.state_dict())


def test_nothing_is_written_twice_or_before_the_first_iteration(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.checkpointing.save(0)
    assert run.files == []
    run.checkpointing.save(3)
    run.checkpointing.save(3)
    assert (run.files, run.bus.flushed) == (["step-00000003.pt"], 1)
    # A validation that has been interrupted or repeated since is a difference.
    run.validation.pending = True
    run.checkpointing.save(3)
    assert run.bus.flushed == 2
    other = TinyRun(tmp_path)
    other.checkpointing.load(checkpoint_path(run.folder, 3))
    other.checkpointing.save(3)
    assert other.bus.flushed == 0


def test_the_number_of_checkpoints_is_limited(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, "checkpoint.keep=2")
    run.bus.last_healthy_step = 12
    for iteration in (3, 6, 9, 12):
        run.checkpointing.save(iteration)
    assert run.files == ["step-00000009.pt", "step-00000012.pt"]


def test_a_checkpoint_written_with_other_data_is_rejected(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.checkpointing.save(3)
    path = checkpoint_path(run.folder, 3)
    content = read_content(path)
    for change in ({"data": None}, {"data": content["position"]["data"] + 1}, {"epoch_length": 4}):
        torch.save({**content, "position": content["position"] | change}, path)
        with pytest.raises(CheckpointError, match=r"step-00000003.pt .* the data sets have changed since"):
            TinyRun(tmp_path).checkpointing.load(path)


def test_batches_of_another_size_are_accepted_and_change_the_length_of_an_epoch(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.checkpointing.save(6)
    path = checkpoint_path(run.folder, 6)
    same = TinyRun(tmp_path)
    same.checkpointing.load(path)
    other = TinyRun(tmp_path, "data.samplers.train.batch_size=3")
    assert other.checkpointing.load(path) == 6
    assert (same.output.getvalue(), other.output.getvalue()) == (
        "",
        "iterations per epoch: 4 instead of 3; iteration 6 is in epoch 2\n",
    )


def test_a_checkpoint_of_version_0_1_may_have_had_other_batches(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.checkpointing.save(3)
    path = checkpoint_path(run.folder, 3)
    content = read_content(path)
    del content["position"]["samplers"]
    torch.save(content, path)
    assert TinyRun(tmp_path).checkpointing.load(path) == 3
    with pytest.raises(CheckpointError, match=r"the data sets or data.samplers have changed since then"):
        TinyRun(tmp_path, "data.samplers.train.batch_size=3").checkpointing.load(path)


def test_the_fingerprint_depends_on_the_values(tmp_path: Path) -> None:
    before = TinyRun(tmp_path).components.data.fingerprint()
    assert before == TinyRun(tmp_path).components.data.fingerprint()
    other = tmp_path / "other.h5"
    (tmp_path / "a.h5").rename(other)
    with h5py.File(other, "a") as file:
        file["003/charges"][0, 0] += 1e-3
    assert TinyRun(tmp_path, f"data.fidelity_datasets.0={other}").components.data.fingerprint() != before


def test_fewer_epochs_than_already_trained_are_rejected(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    run.checkpointing.save(4)
    path = checkpoint_path(run.folder, 4)
    with pytest.raises(ConfigError, match=r"trainer.epochs is 1, but the run is already in epoch 2"):
        TinyRun(tmp_path, "trainer.epochs=1").checkpointing.load(path)
    assert TinyRun(tmp_path, "trainer.epochs=2").checkpointing.load(path) == 4


def test_non_finite_weights_are_not_saved_and_do_not_count_as_saved(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, "checkpoint.keep=1")
    run.checkpointing.save(3)
    weights = {name: value.clone() for name, value in run.components.model.state_dict().items()}
    spoil(run.components)
    run.checkpointing.save(6)
    assert run.files == ["step-00000003.pt"]
    assert run.output.getvalue() == "warning: no checkpoint at iteration 6: the model's weights are not finite\n"
    run.components.model.load_state_dict(weights)
    run.checkpointing.save(6)
    assert run.files == ["step-00000006.pt"]


def test_a_failed_write_is_reported_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TinyRun(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        run.checkpointing.save(3)
    assert run.files == []
    problem = f"cannot write to {run.folder}/checkpoints: No space left on device"
    assert run.output.getvalue() == f"warning: no checkpoint at iteration 3: {problem}\n"
    assert run.checkpointing.problem == problem
    run.checkpointing.save(3)
    assert run.files == ["step-00000003.pt"]
    assert not run.checkpointing.problem


@pytest.mark.parametrize("error", [RuntimeError("[enforce fail at alloc_cpu.cpp]"), MemoryError("too large")])
def test_training_survives_errors_of_torch_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    run = TinyRun(tmp_path)
    monkeypatch.setattr(torch, "save", fail)
    run.checkpointing.save(3)
    assert run.output.getvalue() == (
        f"warning: no checkpoint at iteration 3: cannot write to {run.folder}/checkpoints: {type(error).__name__}: "
        f"{error}\n"
    )


def test_the_same_warning_is_repeated_ever_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TinyRun(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        for iteration in range(1, 10):
            run.checkpointing.save(iteration)
    why = f"cannot write to {run.folder}/checkpoints: No space left on device"
    lines = run.output.getvalue().splitlines()
    assert lines == [
        f"warning: no checkpoint at iteration 1: {why}",
        *(f"warning: no checkpoint at iteration {n}: {why} ({n} times in a row)" for n in (2, 4, 8)),
    ]
    run.checkpointing.save(10)
    spoil(run.components)
    run.checkpointing.save(11)
    assert run.output.getvalue().splitlines()[4:] == [
        "warning: no checkpoint at iteration 11: the model's weights are not finite"
    ]


def test_a_problem_that_returns_after_a_success_is_reported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TinyRun(tmp_path)
    for fails in (True, False, True):
        with monkeypatch.context() as patched:
            if fails:
                patched.setattr(os, "fsync", full_disk)
            run.checkpointing.save(len(run.output.getvalue()) + len(run.files) + 1)
    assert run.output.getvalue().count("warning: no checkpoint") == 2


def test_a_checkpoint_counts_as_written_even_if_old_ones_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TinyRun(tmp_path, "checkpoint.keep=1")
    run.checkpointing.save(3)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    run.bus.last_healthy_step = 9
    monkeypatch.setattr(Path, "unlink", refuse)
    run.checkpointing.save(6)
    run.checkpointing.save(9)
    run.checkpointing.save(12)
    assert run.files == [f"step-{iteration:08d}.pt" for iteration in (3, 6, 9, 12)]
    assert not run.checkpointing.problem
    why = f"cannot write to {run.folder}/checkpoints: Permission denied"
    assert run.output.getvalue().splitlines() == [
        f"warning: old checkpoints are not removed: {why}",
        f"warning: old checkpoints are not removed: {why} (2 times in a row)",
    ]


def test_the_state_of_a_diverged_run_is_saved_separately(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    for iteration in (3, 6):
        run.bus.last_healthy_step = iteration
        run.checkpointing.save(iteration)
    run.bus.last_healthy_step = 4
    spoil(run.components)
    run.checkpointing.save_diverged(8)
    assert run.files == ["diverged-step-00000006.pt", "diverged.pt", "step-00000003.pt"]
    content = read_content(run.folder / "checkpoints/diverged.pt")
    assert content["position"]["iteration"] == 8
    assert run.output.getvalue() == f"state of the diverged run: {run.folder}/checkpoints/diverged.pt\n"


def test_failing_to_save_the_state_of_a_diverged_run_is_only_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TinyRun(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    run.checkpointing.save_diverged(8)
    assert run.files == []
    problem = f"cannot write to {run.folder}/checkpoints: No space left on device"
    assert run.output.getvalue() == f"warning: cannot save the state of the diverged run: {problem}\n"


class Rank1(Communicator):
    """The second of two ranks."""

    rank, world_size = 1, 2

    def __init__(self) -> None:
        self.reduced = 0

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        self.reduced += 1


def test_other_ranks_contribute_their_sums_and_write_nothing(tmp_path: Path) -> None:
    rank = Rank1()
    run = TinyRun(tmp_path, communicator=rank)
    spoil(run.components)
    run.checkpointing.save(3)
    run.checkpointing.save_diverged(3)
    assert (run.files, rank.reduced, run.output.getvalue()) == ([], 2, "")
