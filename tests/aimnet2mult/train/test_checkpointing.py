"""Checkpoints are whole or absent, are pruned, and bring everything back."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimnet2mult.errors import CheckpointError
from aimnet2mult.train import checkpointing as checkpoint


def save(run: Path, step: int, keep: int = 10, parts: Any = None) -> Path:
    return checkpoint.save(run, step, parts or {}, position={"epoch": 1}, keep=keep)


def steps(run: Path) -> list[int]:
    return sorted(checkpoint.step_of(path) for path in (run / "checkpoints").iterdir())


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


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def test_a_checkpoint_brings_every_part_and_the_position_back(tmp_path: Path) -> None:
    before, after = trained(), trained()
    assert not same(before["model"].state_dict(), after["model"].state_dict())
    path = save(tmp_path, 1200, parts=before)
    assert path.name == "step-00001200.pt"
    position = checkpoint.load(path, after, device="cpu")
    assert position == {"iteration": 1200, "epoch": 1}
    for name, part in before.items():
        assert same(part.state_dict(), after[name].state_dict())


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.gauss(), random.random(), np.random.normal(), float(torch.rand(1))]  # noqa: NPY002

    random.gauss()  # half of a pair: the generator now holds the other half
    np.random.normal()  # noqa: NPY002
    path = save(tmp_path, 1)
    expected = draw()
    draw()
    checkpoint.load(path, {}, device="cpu")
    assert draw() == expected


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 90, 100, 1000):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [100, 1000]


def test_saving_deletes_what_a_resume_has_superseded_and_never_what_it_just_wrote(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save(tmp_path, step)
    (tmp_path / "checkpoints/step-00000400.tmp").touch()
    save(tmp_path, 150, keep=1)
    assert steps(tmp_path) == [150]


def test_steps_beyond_the_width_of_the_name_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.step_of(newest) == 100_000_000


@pytest.mark.parametrize("cut", [0, 1, 100, -1], ids=["empty", "one byte", "head", "no end"])
def test_a_torn_file_is_passed_over(tmp_path: Path, cut: int) -> None:
    save(tmp_path, 100)
    torn = save(tmp_path, 200, parts=trained())
    torn.write_bytes(torn.read_bytes()[:cut])
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000100.pt"


def test_a_file_with_a_changed_byte_is_passed_over(tmp_path: Path) -> None:
    path = save(tmp_path, 200, parts={"model": nn.Linear(100, 100)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoint.newest(tmp_path) is None


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_a_failing_write_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 100, keep=1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 200, keep=1)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.step_of(newest) == 100
    assert list((tmp_path / "checkpoints").glob("*.tmp")) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, parts={"model": nn.Linear(3, 1)})
    with pytest.raises(CheckpointError, match=r"step-00000001.pt does not fit this run: .*size mismatch"):
        checkpoint.load(path, {"model": nn.Linear(4, 1)}, device="cpu")
    with pytest.raises(CheckpointError, match="optimizer"):
        checkpoint.load(path, {"optimizer": nn.Linear(3, 1)}, device="cpu")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def state_dict(self) -> dict[str, Any]:
            return {"a": Path("a")}

        def load_state_dict(self, state_dict: Any) -> None:
            raise AssertionError(state_dict)

    path = save(tmp_path, 1, parts={"evil": Evil()})
    with pytest.raises(CheckpointError, match=r"does not fit"):
        checkpoint.load(path, {"evil": Evil()}, device="cpu")


def test_finding_the_newest_does_not_import_torch(tmp_path: Path) -> None:
    save(tmp_path, 7)
    code = (
        "import sys; from pathlib import Path; from aimnet2mult.train import checkpointing as checkpoint;"
        f"print(checkpoint.step_of(checkpoint.newest(Path({str(tmp_path)!r}))), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["7", "False"]


def test_the_newest_from_when_all_was_well_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step, well in ((10, 10), (20, 20), (30, 25), (40, 25), (50, 25)):
        checkpoint.save(tmp_path, step, {}, position={"epoch": 1}, keep=2, last_healthy_step=well)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000020.pt",
        "step-00000040.pt",
        "step-00000050.pt",
    ]
    checkpoint.save(tmp_path, 60, {}, position={"epoch": 1}, keep=2, last_healthy_step=60)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000050.pt",
        "step-00000060.pt",
    ]


def test_what_is_later_than_an_iteration_is_set_aside_and_not_gone_on_with(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {}, position={"epoch": 1}, keep=9)
    checkpoint.set_aside(tmp_path, after=20)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000020.pt"
    assert (tmp_path / "checkpoints" / "diverged-step-00000030.pt").exists()
