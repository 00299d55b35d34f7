"""Training on data that are read batch by batch."""

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from aimnet2mult.errors import DataError
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.file_contents import read_content
from support.tiny_model import SquaredLoss, StoppingLoss
from support.tiny_runs import newest_checkpoint, points, train_tiny

ON_DISK = ("data.in_memory_gb=0", "data.cache=off")
SEVERAL = ("trainer.evaluate_train_every=2", "data.test_fraction=0.2", "data.samplers.train.batch_size=5")


def write_sizes(path: Path) -> str:
    """Write structures of three sizes, of which the smaller ones are padded, and return the setting."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for atoms, structures in ((2, 19), (3, 30), (5, 14)):
            group = file.create_group(f"{atoms:03d}")
            group["coord"] = rng.normal(size=(structures, atoms, 3)) + 2 * np.arange(atoms)[:, None]
            group["numbers"] = rng.choice([1, 6, 8], size=(structures, atoms))
            group["energy"] = rng.normal(size=structures)
            group["charges"] = rng.normal(size=(structures, atoms))
    return f"data.fidelity_datasets.0={path}"


def assert_equal(run: Path, expected: Path) -> None:
    for stream in ("train", "val", "test", "train_eval"):
        found = points(run, stream)
        for step, values in points(expected, stream).items():
            assert {**found[step], "it_per_s": 0} == {**values, "it_per_s": 0}
    mine, theirs = (read_content(newest_checkpoint(each)) for each in (run, expected))
    torch.testing.assert_close(mine["parts"]["model"], theirs["parts"]["model"], rtol=0, atol=0)
    torch.testing.assert_close(mine["parts"]["optimizer"], theirs["parts"]["optimizer"], rtol=0, atol=0)
    assert mine["position"] == theirs["position"]
    for name in ("split.npz", "data.json"):
        assert (run / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_data_on_disk_is_bit_identical(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for name, options in (("memory", ()), ("disk", (*ON_DISK, f"data.loaders.train.num_workers={workers}"))):
        (tmp_path / name).mkdir()
        runs.append(train_tiny(tmp_path / name, write_sizes(tmp_path / name / "b.h5"), *SEVERAL, *options))
    assert_equal(*runs)
    assert capsys.readouterr().err.count("read batch by batch (data.in_memory_gb)") == 1


@pytest.mark.parametrize("first", ["memory", "disk"])
def test_a_run_is_resumed_exactly_with_its_data_elsewhere(first: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "resumed").mkdir()
    whole = train_tiny(tmp_path / "whole", write_sizes(tmp_path / "whole" / "b.h5"))
    options = (("data.in_memory_gb=1",), ON_DISK)
    before, after = options if first == "memory" else options[::-1]
    data = write_sizes(tmp_path / "resumed" / "b.h5")
    run = train_tiny(tmp_path / "resumed", data, "trainer.epochs=2", *before)
    assert train(Request(resume=str(run), overrides=["trainer.epochs=4", *after])) == 0
    assert_equal(run, whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_truncated_during_training_ends_it_with_one_line(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_sizes(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        offset = file["005/coord"].id.get_offset()

    def truncating(self: SquaredLoss, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        os.truncate(tmp_path / "b.h5", offset)
        return SquaredLoss.__call__(self, y_pred, y_true)

    monkeypatch.setattr(StoppingLoss, "__call__", truncating)
    with pytest.raises(DataError, match=r"b\.h5, group 00\d, rows \d+ to \d+: '\w+' cannot be read") as caught:
        train_tiny(tmp_path, data, *ON_DISK, f"data.loaders.train.num_workers={workers}")
    assert "\n" not in str(caught.value)
