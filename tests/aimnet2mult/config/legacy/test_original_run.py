"""Files of the original trainer are used to train on the sample data, to resume, and to load the weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import aimnet2mult
from aimnet2mult.config.merge import read_yaml
from support.commands_in_process import run_module
from support.file_contents import read_weights
from telemetry import read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars

FILES = Path(__file__).with_name("original")
SAMPLE = Path(aimnet2mult.__file__).parent / "sample"

pytestmark = pytest.mark.slow


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., str]:
    """Return a function that trains with the module name of the original trainer, and returns its messages."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        code = run_module(["-m", "aimnet2mult.train.cli", *map(str, arguments)])
        output = capsys.readouterr().err + caplog.text
        caplog.clear()
        assert code == 0, output
        return output

    return run


def arguments(name: str) -> list[object]:
    data = [f"data.fidelity_datasets.{i}={SAMPLE / file}" for i, file in enumerate(("gfn1.h5", "spgfn2.h5"))]
    files = ["--config", FILES / f"{name}.yaml", "--model", FILES / "model.yaml"]
    return [*files, "--telemetry-sinks", "none", "--threads", 1, *data, "device=cpu", "project_name=p"]


def points(run: Path, stream: str) -> dict[int, dict[str, float]]:
    """Return the values of a stream by iteration."""
    records = JournalReader(run).read(1000, live=False)
    return {r.step: dict(r.values) for r in records if isinstance(r, Scalars) and r.stream == stream}


def test_a_plateau_file_trains_resumes_and_its_weights_are_loaded(tmp_path: Path, command: Callable[..., str]) -> None:
    weights = ["data.fidelity_weights.0=4.0", "data.fidelity_weights.1=1.0"]
    output = command(*arguments("plateau"), *weights, "run_name=a", "--save", "w.pt")
    assert output.count("translated from the format of the original trainer") == 1
    (run,) = tmp_path.glob("runs/a-*")
    assert read_receipt(run).status == "finished"
    assert list(points(run, "val")) == [3, 6]
    assert read_yaml(run / "train.yaml")["trainer"]["clip_grad_value"] is None
    assert read_yaml(run / "model.yaml")["class"] == "aimnet.models.AIMNet2"
    weights_of_run = read_weights(tmp_path / "w.pt")

    command(*arguments("plateau"), *weights, "run_name=a", "--resume", "auto", "trainer.epochs=3")
    command("--resume", run, "trainer.epochs=4", "--telemetry-sinks", "none")
    assert list(points(run, "val")) == [3, 6, 9, 12]

    torch.save({"model": weights_of_run}, tmp_path / "m.pt")
    loaded = command(*arguments("plateau"), "run_name=b", "trainer.epochs=1", "--load", "m.pt")
    assert f"weights: {len(weights_of_run)} of {len(weights_of_run)} arrays loaded" in loaded


def test_a_cosine_file_trains_stops_at_its_lowest_learning_rate_and_keeps_the_best_weights(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    low = ["scheduler.terminate_on_low_lr=4e-5", "checkpoint.save_best=true"]
    output = command(*arguments("cosine"), *low, "telemetry.every=1", "trainer.epochs=5", "--save", "w.pt")
    assert "steps after each validation" in output
    (run,) = tmp_path.glob("runs/early-*")
    rates = [values["lr"] for values in points(run, "train").values()]
    # There are two iterations per epoch. The first validation sets the initial value of the cycle.
    assert rates == pytest.approx([1e-4] * 4 + [1e-6 + 0.5 * 99e-6 * 1.5] * 2, rel=1e-6)
    assert "below trainer.stop_below_lr 4e-05: finished" in output
    assert read_receipt(run).status == "finished"
    best = read_weights(run / "checkpoints" / "best.pt")
    assert best.keys() == read_weights(tmp_path / "w.pt").keys()
