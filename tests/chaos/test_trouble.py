"""Problems in real trainings on the sample data raise an alert within one cadence; ordinary trainings raise none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import eventually

pytest.importorskip("aimnet")

from aimnet2mult.cli.sample_data import SAMPLE

pytestmark = pytest.mark.chaos

EVERY, AT = 50, 300
LONG = 600.0
"""Seconds that a training may take on a busy machine."""
SITE = """
import sys
from support.chaos import trouble
trouble.arm()
"""


class Training:
    """A training on the sample data, run as a program until its end."""

    def __init__(
        self, folder: Path, *overrides: str, trouble: dict[str, Any] | None = None, every: int = EVERY
    ) -> None:
        self._runs = folder / "runs"
        site = folder / "trouble"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(SITE)
        given = {"TROUBLE": json.dumps(trouble)} if trouble else {}
        with (folder / "log").open("wb") as log:
            self.program = subprocess.Popen(
                [
                    *(sys.executable, "-m", "aimnet2mult.cli", "train"),
                    *("--config", SAMPLE / "train.yaml", "--model", SAMPLE / "model.yaml"),
                    *("--telemetry-dir", self._runs, "--telemetry-every", str(every), "--telemetry-sinks", "none"),
                    "data.samplers.train.batches_per_epoch=500",
                    *overrides,
                ],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]])} | given,
            )

    def alerts(self) -> list[dict[str, Any]]:
        lines = [line for path in self._runs.glob("*/journal-0.jsonl") for line in path.read_text().splitlines()]
        found = [json.loads(line) for line in lines if '"kind":"alert"' in line]
        return [alert for alert in found if not alert.get("recovered")]

    def end(self) -> list[dict[str, Any]]:
        try:
            self.program.wait(LONG)
        finally:
            self.program.kill()
            self.program.wait()
        return self.alerts()


def test_ordinary_trainings_raise_no_alert(tmp_path: Path, figures: Callable[[object], None], count: int) -> None:
    seeds = range(1, max(1, count // 100) + 1)
    alerts = {seed: Training(tmp_path / str(seed), f"seed={seed}", "trainer.epochs=2").end() for seed in seeds}
    assert [found for found in alerts.values() if found] == []
    figures(f"{len(seeds)} trainings with different seeds, {1000 // EVERY} points each: no alert")


JUMP = (
    "scheduler={class: torch.optim.lr_scheduler.MultiStepLR, kwargs: {milestones: [300], gamma: 100}, step: iteration}"
)


@pytest.mark.parametrize(
    ("overrides", "trouble", "latest"),
    [
        pytest.param(["optimizer.kwargs.lr=0.2"], None, 9 * EVERY, id="rate x 100"),
        pytest.param([JUMP], None, AT + EVERY, id="rate x 100 from 300 on"),
        pytest.param([], "a poisoned batch", AT + EVERY, id="a poisoned batch"),
        pytest.param(["trainer.epochs=2"], "missing labels", AT + 4 * EVERY, id="missing labels"),
    ],
)
def test_a_problem_raises_an_alert_within_a_few_points(
    tmp_path: Path, figures: Callable[[object], None], overrides: list[str], trouble: str | None, latest: int
) -> None:
    causes = {None: {"spike", "non-finite"}, "a poisoned batch": {"spike"}}.get(trouble, {"unlabelled"})
    given = None if trouble is None else {"what": trouble, "at": AT}
    training = Training(tmp_path, "trainer.epochs=1", *overrides, trouble=given)
    first = training.end()[0]
    assert first["cause"] in causes
    assert first["step"] <= latest
    figures(f"alert at {first['step']}: {first['title']}")


def test_a_hung_loader_raises_an_alert_while_it_hangs(tmp_path: Path, figures: Callable[[object], None]) -> None:
    until = tmp_path / "until"
    trouble = {"what": "a hung loader", "at": AT, "until": str(until)}
    training = Training(tmp_path, "trainer.epochs=1", "telemetry.watch.stalled=5", trouble=trouble, every=5)
    try:
        (alert,) = eventually(training.alerts, LONG)
    finally:
        until.touch()
        training.end()
    assert alert["cause"] == "stalled"
    assert alert["step"] == AT - 5
    assert training.program.returncode == 0
    figures(f"alert while it hung: {alert['title']}")


def test_a_diverging_training_is_stopped_with_its_last_good_checkpoint(
    tmp_path: Path, figures: Callable[[object], None]
) -> None:
    short = ["data.samplers.train.batches_per_epoch=100", "trainer.epochs=10"]
    training = Training(tmp_path, JUMP, *short, "--telemetry-on-divergence", "stop")
    training.end()
    assert training.program.returncode == 3, (tmp_path / "log").read_text()
    (run,) = (tmp_path / "runs").iterdir()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert [name for name in names if name.startswith("step-")][-1] <= "step-00000300.pt"
    assert "diverged.pt" in names
    closed = json.loads((run / "journal-0.jsonl").read_text().splitlines()[-1])
    assert (closed["kind"], closed["status"]) == ("closed", "failed")
    assert closed["reason"].startswith("diverged: ")
    figures(f"exit code 3, {closed['reason']}; checkpoints: {', '.join(names)}")
