"""The sweeps in docs/how-to/sweeps.md work as shown."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.schema import load
from support.commands_in_process import run_with_commands
from support.tiny_runs import write_data
from telemetry import read_run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "sweeps.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
(YAML,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SETTINGS = """
data:
    fidelity_datasets: {0: a.h5}
    y: [energy]
    samplers: {train: {batch_size: 4}}
loss: {class: support.tiny_model.SquaredLoss, kwargs: {}}
optimizer: {param_groups: {shifts: null}}
trainer: {epochs: 2}
telemetry: {sinks: none}
"""


def test_the_settings_of_the_sweep_are_accepted_as_the_agent_passes_them() -> None:
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load(YAML)
    given = {
        name: {"value": values.get("min", values.get("values", [0])[-1])}
        for name, values in sweep["parameters"].items()
    }
    assert sweep["command"][-1] == "${args_no_hyphens}"
    overrides = agent.create_sweep_command_args({"args": given})["args_no_hyphens"]
    config = load([ROOT / "aimnet2mult/sample/train.yaml"], overrides, check_inputs=False)
    assert (config.optimizer.kwargs["lr"], config.data.samplers.train.batch_size) == (1e-4, 128)
    options = {option for parameter in cli.commands["train"].params for option in parameter.opts}
    assert {word for word in sweep["command"] if word.startswith("--")} <= options


@pytest.mark.slow
def test_each_trial_is_a_run_and_its_result_the_lowest_validation_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    write_data(tmp_path / "a.h5", 40, 0)
    (tmp_path / "train.yaml").write_text(SETTINGS)
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.TinyCore\n")
    (tmp_path / "sweep.py").write_text(CODE.replace("n_trials=20", "n_trials=2"))
    monkeypatch.setenv("AIMNET2MULT_ALLOW_PACKAGE", "support")
    code = run_with_commands(
        [sys.executable, "sweep.py"], tmp_path, {"aimnet2mult": lambda words: CliRunner().invoke(cli, words).exit_code}
    )
    output = capfd.readouterr()
    assert code == 0, output.err
    best = min(read_run(folder).curves["val/E_rmse"].values.min() for folder in (tmp_path / "sweep").iterdir())
    assert output.out.splitlines()[-1].endswith(f" {best}")
    assert len(list((tmp_path / "sweep").iterdir())) == 2
