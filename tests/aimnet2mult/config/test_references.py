"""References in settings give values of other settings and of variables that locate things, and nothing else."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config import references
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.references import VARIABLES, escape
from aimnet2mult.config.resume_rules import load_config
from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError, Problems


def resolve(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with their references resolved, or raise what is wrong with them."""
    problems = Problems()
    resolved = references.resolve(settings, problems)
    problems.raise_any()
    return resolved


SETTINGS: dict[str, Any] = {
    "a": 3,
    "b": {"c": [1, {"d": "x"}], 0: "zero"},
    "telemetry": {"dir": "runs", "wandb": {"api_key": "hunter2"}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${a}", 3),
        ("n-${a}-${b.0}", "n-3-zero"),
        ("${b}", {"c": [1, {"d": "x"}], 0: "zero"}),
        ("${telemetry.dir}/x", "runs/x"),
        ("\\${a}", "${a}"),
        ("$a {a} $", "$a {a} $"),
        ("${oc.env:SCRATCH}/data", "/scratch/me/data"),
        ("${oc.env:WORK,/data}", "/data"),
    ],
)
def test_a_reference_gives_the_value_with_its_type(monkeypatch: pytest.MonkeyPatch, text: str, value: object) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("WORK", raising=False)
    assert resolve({**SETTINGS, "new": [text]})["new"] == [value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${oc.env:WANDB_API_KEY}", 'WANDB_API_KEY cannot be used .* on the command line.*: KEY="[$]WANDB_API_KEY"'),
        ("${oc.env:WANDB_API_KEY,none}", "WANDB_API_KEY cannot be used"),
        ("x${oc.env:SLURM_JWT}", "SLURM_JWT cannot be used"),
        ("${oc.env:TMPDIR}", "TMPDIR is not set"),
        ("${oc.decode:1}", "expected a reference such as"),
        ("${oc.env:${a}}", "expected a reference such as"),
        ("${${a}}", "expected a reference such as"),
        ("${oc.select:a}", "expected a reference such as"),
        ("${oc.create:{}}", "expected a reference such as"),
        ("${", "expected a reference such as"),
        ("${.a}", "expected a reference such as"),
        ("${nowhere.x}", "there is no setting nowhere.x"),
        ("${telemetry.wandb.api_key}", "options of sinks, which may be credentials, cannot be referred to"),
        ("${telemetry.wandb}", "options of sinks"),
        ("${telemetry}", "options of sinks"),
        ("${new}", "form a cycle"),
        ("???", r"new is \?\?\?; set it"),
    ],
)
def test_any_other_reference_is_rejected_with_its_key(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    monkeypatch.setenv("SLURM_JWT", "hunter2")
    monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(ConfigError) as caught:
        resolve({**SETTINGS, "new": text})
    (line,) = str(caught.value).splitlines()
    assert line.startswith("new is ")
    assert re.search(message, line)
    assert "hunter2" not in line


def test_all_wrong_references_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^a is .*\nb\[1\] is .*$"):
        resolve({"a": "${x}", "b": [1, "${y}"]})


@pytest.mark.parametrize("last", ["xxxxxxxxxx", ["x", "y"]])
def test_references_that_double_at_every_step_are_stopped(last: object) -> None:
    doubling = (lambda n: f"${{a{n}}}${{a{n}}}") if isinstance(last, str) else (lambda n: [f"${{a{n}}}", f"${{a{n}}}"])
    settings = {"a0": last, **{f"a{n}": doubling(n - 1) for n in range(1, 19)}}
    start = time.process_time()
    with pytest.raises(ConfigError, match="too many of them"):
        resolve(settings)
    assert time.process_time() - start < 20


def test_no_variable_that_may_be_a_credential_is_admitted() -> None:
    from telemetry.redaction import names_credential

    assert not [name for name in VARIABLES if names_credential(name)]
    assert "SLURM_JWT" not in VARIABLES


@pytest.mark.parametrize("text", ["${a}", "\\${a}", "\\\\${a}", "${${", "x", "$", "\\"])
def test_escaped_values_are_resolved_to_themselves(text: str) -> None:
    assert resolve(escape({"a": 1, "b": [{"c": text}]})) == {"a": 1, "b": [{"c": text}]}


def test_values_recorded_by_a_run_are_never_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    data = f"data.fidelity_datasets.0={tmp_path / 'a.h5'}"
    content = load([], [data, "project_name='\\${oc.env:HOME}'"]).to_dict()
    assert content["project_name"] == "${oc.env:HOME}"
    write_yaml(tmp_path / "train.yaml", content)
    resumed, _ = load_config(tmp_path, [], ["trainer.epochs=${checkpoint.keep}"], problems=Problems(), restarts=False)
    assert resumed.project_name == "${oc.env:HOME}"
    assert resumed.trainer.epochs == 2
    assert os.environ["HOME"] == "/home/me"


def test_wrong_references_are_reported_with_other_problems() -> None:
    with pytest.raises(ConfigError, match=r"(?s)^project_name is .*trainer\.epochs is 0.*no data set is given"):
        load([], ["project_name=${nowhere}", "trainer.epochs=0"])
