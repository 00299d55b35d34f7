"""The examples on the page about training options work as described."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from aimnet2mult.config.schema import Config, load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.train.learner import build_loss, scheduler_section
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.optimizer import build_scheduler
from aimnet2mult.train.validation_metrics import ValidationMetrics

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "training-options.md"
METRICS = ValidationMetrics(known={}, available=())


def examples(section: str, folder: Path) -> list[Config]:
    """Return the settings of each example below a heading."""
    (folder / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    configs = []
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)):
        file = folder / f"{number}.yaml"
        file.write_text(block)
        configs.append(load([file], [f"data.fidelity_datasets.0={folder / 'a.h5'}"]))
    return configs


def test_each_schedule_warms_up_over_500_iterations(tmp_path: Path) -> None:
    configs = examples("Schedules", tmp_path)
    for config, first, rate in zip(configs, (0.01e-3, 0.0, 0.0), (1e-3, 1e-3, 1e-3), strict=True):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
        schedule = build_scheduler(optimizer, scheduler_section(config), metrics=METRICS)
        rates = []
        for _ in range(600):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step_iteration()
        assert rates[0] == pytest.approx(first)
        assert max(rates) == pytest.approx(rate)
        assert rates.index(max(rates)) in (499, 500)
        assert rates[:499] == sorted(rates[:499])
        assert rates[501:] == sorted(rates[501:], reverse=True)


def test_the_losses_are_built_with_the_described_weights(tmp_path: Path) -> None:
    scheduled, adaptive = examples("Loss weights", tmp_path)
    loss = build_loss(scheduled, Communicator())
    assert isinstance(loss, MTLoss)
    # Charges and spin charges keep their weights of 0.05.
    assert loss.weights.at(0)[:2] == pytest.approx((0.1 / 1.2, 1.0 / 1.2))
    assert loss.weights.at(5000)[:2] == pytest.approx((0.55 / 1.25, 0.6 / 1.25))
    assert loss.terms.weights[:2] == pytest.approx((1.0 / 1.3, 0.2 / 1.3))
    loss = build_loss(adaptive, Communicator())
    assert isinstance(loss, MTLoss)
    assert (loss.terms.names, loss.weights.final) == (("energy", "forces"), (0.25, 0.75))


def test_early_stopping_and_best_weights_use_the_same_metric(tmp_path: Path) -> None:
    (config,) = examples("Early stopping", tmp_path)
    assert config.trainer.early_stopping.metric == config.checkpoint.best == "E_rmse"
