"""What is recorded about the setup of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from aimnet2mult.train.plan import Plan
from aimnet2mult.train.reporter import Bus
from aimnet2mult.train.setup_record import record_setup
from support.tiny_runs import build_tiny
from telemetry import NullBus, Settings


class RecordingBus(NullBus):
    """A bus that records texts and tables, and calls the functions for their contents."""

    def __init__(self) -> None:
        super().__init__(1)
        self.texts: dict[tuple[str, int], str] = {}
        self.tables: dict[tuple[str, int], list[dict[str, object]]] = {}

    def text(self, name: str, step: int, text: str | Callable[[], str]) -> None:
        self.texts[name, step] = text() if callable(text) else text

    def table(
        self, name: str, step: int, columns: Sequence[str], rows: Callable[[], Sequence[Sequence[object]]]
    ) -> None:
        self.tables[name, step] = [dict(zip(columns, row, strict=True)) for row in rows()]


def recorded(folder: Path, *, resume_step: int | None = None, argv: Sequence[str] = ("aimnet2mult",)) -> Any:
    config, components = build_tiny(folder)
    settings = Settings(options={"wandb": {"api_key": "0123456789secret"}})
    plan = SimpleNamespace(config=config, settings=settings, resume_step=resume_step)
    bus = RecordingBus()
    record_setup(cast("Plan", plan), components.data, components.device, cast("Bus", bus), argv)
    return bus


def test_the_data_are_summarized_by_fidelity(tmp_path: Path) -> None:
    (row,) = recorded(tmp_path).tables["setup/data", 0]
    assert row["fidelity"] == "fid0"
    assert (row["training"], row["validation"], row["test"]) == (12, 4, 0)
    assert (row["elements"], row["labels"]) == ("H, C, O", "energy, charges")
    assert str(row["files"]).startswith(f"{tmp_path / 'a.h5'} (CRC-32 ")


def test_the_environment_has_the_versions_of_python_torch_and_all_packages(tmp_path: Path) -> None:
    text = recorded(tmp_path).texts["setup/environment", 0]
    assert f"- torch: {torch.__version__}" in text
    assert "- device: cpu" in text
    assert "\n    numpy==" in text


def test_the_command_can_be_pasted_and_contains_no_credentials(tmp_path: Path) -> None:
    argv = [
        "aimnet2mult",
        "train",
        "data set.yaml",
        "--password",
        "hunter22",
        "telemetry.wandb.api_key=0123456789secret",
    ]
    text = recorded(tmp_path, argv=argv).texts["setup/command", 0]
    assert text.startswith("    aimnet2mult train 'data set.yaml' --password")
    assert "hunter22" not in text
    assert "0123456789secret" not in text


def test_a_resumed_run_records_its_setup_where_it_resumes(tmp_path: Path) -> None:
    assert {step for _, step in recorded(tmp_path, resume_step=30).texts} == {30}


def test_the_code_of_allowed_packages_is_recorded_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = []

    def describe(packages: Sequence[str]) -> str:
        described.extend(packages)
        return "+KEY = '0123456789secret'"

    monkeypatch.setattr("aimnet2mult.train.setup_record.describe_code", describe)
    text = recorded(tmp_path).texts["setup/code", 0]
    assert described == ["aimnet2mult", "support", "tests"]
    assert "0123456789secret" not in text
