"""Credentials among the settings of a training reach neither its run folder nor its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli_runs import telemetry
from support.tiny_runs import train_tiny


def test_credentials_in_settings_are_in_no_file_and_in_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_TOKEN", "pl4nted-environment")
    run = train_tiny(
        tmp_path,
        "trainer.epochs=1",
        "telemetry.mlflow.tags={password: pl4nted, dsn: 'host=h password=pl4nted', note: pl4nted-environment}",
        "telemetry.wandb.notes='postgresql://me:pl4nted/x@db'",
        "telemetry.wandb.tags=['--token', pl4nted]",
    )
    shown = telemetry("status", run).output + telemetry("show", run).output
    captured = capfd.readouterr()
    assert "pl4nted" not in shown + captured.out + captured.err
    assert "postgresql://***@db" in (run / "train.yaml").read_text(encoding="utf-8")
    for path in run.rglob("*"):
        assert path.is_dir() or b"pl4nted" not in path.read_bytes(), path
