"""Settings and models of others run no code: what they name is trusted, or the user allows it on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.import_path import ALLOW_VARIABLE
from aimnet2mult.config.merge import read_yaml, write_yaml
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.plan import Request, make_plan
from support.tiny_runs import train_tiny


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run whose loss and model are from the package `support`, which is no longer allowed."""
    folder = train_tiny(tmp_path, "trainer.epochs=1")
    monkeypatch.delenv(ALLOW_VARIABLE)
    return folder


def lines(request: Request) -> list[str]:
    """Return the lines of the error that a request gives."""
    with pytest.raises(ConfigError) as caught:
        make_plan(request)
    return str(caught.value).splitlines()


def test_a_resumed_run_needs_the_packages_to_be_allowed_again(run: Path) -> None:
    resumed = Request(resume=str(run), overrides=["trainer.epochs=2"])
    first, second = lines(resumed)
    assert first.startswith(f"{run}/train.yaml: loss.class is 'support.tiny_model.StoppingLoss': a loss may come from")
    assert second.startswith(f"{run}/model.yaml: class is 'support.tiny_model.TinyCore': a model may come from")
    assert first.endswith("--allow-package support")
    assert second.endswith("--allow-package support")
    command = [
        "train",
        "--resume",
        str(run),
        "trainer.epochs=2",
        "--allow-package",
        "support",
        "--telemetry-sinks=none",
    ]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "support" not in {*read_yaml(run / "train.yaml"), *read_yaml(run / "train.yaml")["telemetry"]}


def test_a_run_folder_cannot_allow_packages(run: Path) -> None:
    settings = read_yaml(run / "train.yaml")
    for key in ("allow_package", "allow_packages"):
        write_yaml(run / "train.yaml", {**settings, key: ["support"]})
        assert f"unknown key {key!r}" in "\n".join(lines(Request(resume=str(run))))


def test_a_hostile_folder_executes_nothing_and_every_name_is_reported(run: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    command = ["touch", str(marker)]
    settings = read_yaml(run / "train.yaml")
    settings["loss"] = {
        "class": "subprocess.check_output",
        "kwargs": {"args": command, "components": {"x": {"fn": "torch.hub.load", "weight": 1}}},
    }
    settings["optimizer"]["class"] = "subprocess.Popen"
    settings["scheduler"] = {"class": "os.system", "kwargs": {}}
    write_yaml(run / "train.yaml", settings)
    hostile = {"class": "subprocess.check_call", "args": [command]}
    outputs = {
        "a": hostile,
        "b": [{"class": "aimnet.modules.Output", "kwargs": {"mlp": {"activation_fn": "os.abort"}}}],
    }
    write_yaml(
        run / "model.yaml", {"class": "aimnet.models.AIMNet2", "kwargs": {"outputs": outputs, "x": {"y": hostile}}}
    )
    found = lines(Request(resume=str(run), overrides=["trainer.epochs=0"]))
    named = [
        f"{run}/train.yaml: loss.class is 'subprocess.check_output'",
        f"{run}/train.yaml: loss.kwargs.components.x.fn is 'torch.hub.load'",
        f"{run}/train.yaml: optimizer.class is 'subprocess.Popen'",
        f"{run}/train.yaml: scheduler.class is 'os.system'",
        f"{run}/model.yaml: kwargs.outputs.a.class is 'subprocess.check_call'",
        f"{run}/model.yaml: kwargs.outputs.b[0].kwargs.mlp.activation_fn is 'os.abort'",
        f"{run}/model.yaml: kwargs.x.y.class is 'subprocess.check_call'",
    ]
    assert [text for text in named if not any(line.startswith(text) for line in found)] == []
    assert any(line.startswith("trainer.epochs is 0") for line in found)
    assert not marker.exists()


def test_the_file_is_named_unless_the_command_line_sets_the_value(run: Path, tmp_path: Path) -> None:
    for name, path in (("1.yaml", "a.x.Y"), ("2.yaml", "subprocess.Popen")):
        (tmp_path / name).write_text(f"optimizer: {{class: {path}}}\n")
    data = f"data.fidelity_datasets.0={tmp_path / 'a.h5'}"
    request = Request(configs=[tmp_path / "1.yaml", tmp_path / "2.yaml"], overrides=[data])
    assert lines(request)[0].startswith(f"{tmp_path}/2.yaml: optimizer.class is 'subprocess.Popen'")
    override = Request(configs=request.configs, overrides=[data, "optimizer.class=os.system"])
    assert lines(override)[0].startswith("optimizer.class is 'os.system'")


def test_nested_schedulers_are_checked_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(
        "scheduler:\n"
        "    class: torch.optim.lr_scheduler.SequentialLR\n"
        "    kwargs:\n"
        "        schedulers:\n"
        "        - {class: torch.optim.lr_scheduler.LinearLR}\n"
        "        - {class: os.system, kwargs: {x: [{class: shutil.rmtree}, {class: 5}]}}\n"
        "        milestones: [5]\n"
    )
    found = "\n".join(lines(Request(configs=[tmp_path / "settings.yaml"])))
    inner = "scheduler.kwargs.schedulers[1]"
    assert f"{inner}.class is 'os.system': a scheduler may come from torch.optim.lr_scheduler, ignite" in found
    assert f"{inner}.kwargs.x[0].class is 'shutil.rmtree': a scheduler may come from" in found
    assert f"{inner}.kwargs.x[1].class is 5; expected a dotted path" in found
