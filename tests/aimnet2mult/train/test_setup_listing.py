"""The listing of settings, model and parameters."""

from pathlib import Path

import torch
from torch import nn

from aimnet2mult.config.schema import load
from aimnet2mult.train.setup_listing import list_setup


def test_settings_model_and_every_parameter_are_listed(tmp_path: Path) -> None:
    (tmp_path / "0.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    options = ["trainer.epochs=7", "telemetry.wandb.api_key=s3cret"]
    config = load([], [f"data.fidelity_datasets.0={tmp_path / '0.h5'}", *options])
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    model[1].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [model[0].weight], "lr": 0.5}, {"params": [model[0].bias]}], lr=0.1)
    lines = list(list_setup(config, {"class": "torch.nn.Sequential"}, model, optimizer))
    assert lines[:2] == ["settings:", "  run_name: aimnet2mult"]
    assert "    epochs: 7" in lines
    assert "s3cret" not in "\n".join(lines)
    assert lines[lines.index("model:") :] == [
        "model:",
        "  class: torch.nn.Sequential",
        "parameters:",
        "  0.weight (3, 2): lr 0.5, weight_decay 0",
        "  0.bias (3,): lr 0.1, weight_decay 0",
        "  1.weight (1, 3): frozen",
    ]
