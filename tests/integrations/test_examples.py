"""The examples for other trainers run, and their values agree with an independent calculation."""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from aimnet2mult.cli import sample_data
from telemetry import read_header
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed, Scalars

EXAMPLES = Path(__file__).parents[2] / "examples"
KCAL = 96485.33212331 / 4184
"""kcal/mol per eV: Faraday constant in C/mol divided by the thermochemical kilocalorie in J."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def curves(run: Path) -> dict[str, dict[int, Mapping[str, float]]]:
    """Return the values of a finished run by stream and iteration."""
    *records, end = JournalReader(run).read(1000, live=False)
    assert isinstance(end, Closed)
    assert end.status == "finished"
    found: dict[str, dict[int, Mapping[str, float]]] = {}
    for record in records:
        if isinstance(record, Scalars):
            found.setdefault(record.stream, {})[record.step] = record.values
    return found


def tags(run: Path) -> set[str]:
    """Return the tags that TensorBoard shows for a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_the_plain_loop_publishes_values_in_the_declared_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    end = runpy.run_path(str(EXAMPLES / "plain_loop.py"))
    assert end["bus"].folder == tmp_path / "runs" / "plain"
    points = curves(end["bus"].folder)
    assert list(points["train"]) == list(range(100, 1001, 100))
    assert list(points["val"]) == [500, 1000]
    for values in points["train"].values():
        assert values["E_rmse"] == pytest.approx(KCAL * values["loss"] ** 0.5, rel=1e-6)
    with torch.no_grad():
        error = (end["model"](end["distance"]) - end["energy"]).double().numpy()[1::2]
    assert points["val"][1000]["E_rmse"] == pytest.approx(KCAL * np.sqrt(np.mean(error**2)), rel=1e-5)
    assert tags(end["bus"].folder) == {"train/loss", "train/E_rmse", "val/E_rmse"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true but no accelerator is found")
def test_the_aimnet_trainer_publishes_its_metrics_when_configured_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "aimnet"
    shutil.copytree(EXAMPLES / "aimnet_trainer", folder)
    CliRunner().invoke(sample_data, [str(folder / "data")], catch_exceptions=False)
    sae = {number: -1.0 * number for number in range(1, 18)}
    (folder / "data" / "gfn1.sae").write_text(yaml.safe_dump(sae), encoding="utf-8")
    with h5py.File(folder / "data" / "gfn1.h5") as sample, h5py.File(folder / "val.h5", "w") as val:
        for name, group in sample.items():
            for key, data in group.items():
                val[f"{name}/{key}"] = data[::50]
    # What `aimnet train` runs, in this process: importing everything again would take 15 s.
    command = importlib.import_module("aimnet.train.train").train
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    command.main(
        [
            *("--config", "train.yaml", "--model", "data/model.yaml", "--save", "weights.pt"),
            *("data.val=val.h5", "trainer.epochs=2", "data.samplers.train.kwargs.batches_per_epoch=25"),
        ],
        standalone_mode=False,
    )
    del sys.modules["with_telemetry"]
    (run,) = (folder / "runs").iterdir()
    points = curves(run)
    assert list(points["train"]) == list(points["train_window"]) == [20, 40, 50]
    assert list(points["val"]) == [25, 50]
    assert {tag for tag in tags(run) if tag.startswith("val/")} == {f"val/{name}" for name in points["val"][50]}
    metrics = read_header(run).metrics
    assert [metrics[f"val/{abbr}_rmse"].unit for abbr in "EFq"] == ["kcal/mol", "kcal/mol/Å", "e"]
    for name, value in errors(folder, sae).items():
        # R² can be close to 0, where a relative tolerance is too strict.
        assert points["val"][50][name] == pytest.approx(value, rel=1e-5, abs=1e-5 if "r2" in name else 0), name


def errors(folder: Path, sae: Mapping[int, float]) -> dict[str, float]:
    """Return RMSE, MAE and R² of the saved weights, computed with NumPy in double precision."""
    from aimnet.train.utils import build_model
    from omegaconf import OmegaConf

    model = build_model(OmegaConf.load(folder / "data" / "model.yaml"), forces=True)
    model.module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    model.eval()
    pairs: dict[str, list[tuple[Any, Any]]] = {"energy": [], "forces": [], "charges": []}
    with h5py.File(folder / "val.h5") as val:
        for group in val.values():
            x = {key: torch.as_tensor(group[key][:]) for key in ("coord", "numbers", "charge", "mult")}
            out = model({key: value.long() if key == "numbers" else value.float() for key, value in x.items()})
            atoms = np.vectorize(sae.__getitem__)(group["numbers"][:]).sum(-1)
            labels = {key: np.float64(group[key][:]) for key in pairs}
            labels["energy"] -= atoms
            for key, label in labels.items():
                pairs[key].append((out[key].detach().double().numpy().ravel(), label.ravel()))
    found = {}
    for (key, both), abbr, unit in zip(pairs.items(), "EFq", (KCAL, KCAL, 1.0), strict=True):
        pred, true = (np.concatenate(each) for each in zip(*both, strict=True))
        found[f"{abbr}_rmse"] = unit * np.sqrt(np.mean((pred - true) ** 2))
        found[f"{abbr}_mae"] = unit * np.mean(np.abs(pred - true))
        found[f"{abbr}_r2"] = 1 - np.sum((pred - true) ** 2) / np.sum((true - true.mean()) ** 2)
        assert len(pred) > 100, key
    return found
