"""The ID, configuration and client settings of a W&B run."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Any

from sinks.wandb.timeouts import Timeouts
from telemetry.sink_api import RunRecord

_MAX_NAME_LENGTH = 64
"""Maximum number of characters of the run ID that become part of the W&B ID."""
ABOUT_KEY = "telemetry/run"
"""The key of the description of the run in the configuration."""
_FLUSH_INTERVAL = 2.0
"""Seconds after which wandb-core writes rows from memory to the transaction log."""


def run_id(run: RunRecord) -> str:
    """Return a valid W&B ID that differs from the IDs of earlier runs with the same name."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", run.run_id).strip("-")[:_MAX_NAME_LENGTH]
    digest = hashlib.sha256(f"{run.run_id}/{run.started}".encode()).hexdigest()[:8]
    return f"{name}-{digest}" if name else digest


def identity(run: RunRecord) -> dict[str, Any]:
    """Return the part of the configuration that distinguishes the run from all others."""
    return {"id": run.run_id, "started": run.started}


def config(run: RunRecord) -> dict[str, Any]:
    """Return the configuration: the run's parameters, and a description of the run and its metrics."""
    about = {
        **identity(run),
        "every": run.every,
        "attempt": run.attempt,
        "host": run.host,
        "versions": run.versions,
    }
    units = {name: metric.unit for name, metric in run.metrics.items() if metric.unit not in {"", "1"}}
    labels = {name: metric.label for name, metric in run.metrics.items() if metric.label}
    better = {name: metric.better for name, metric in run.metrics.items() if metric.better}
    declared = {"telemetry/units": units, "telemetry/labels": labels, "telemetry/better": better}
    return {**run.params, ABOUT_KEY: about, **declared}


def client_settings(run: RunRecord, timeouts: Timeouts) -> dict[str, Any]:
    """Return the arguments of ``wandb.Settings``: no console output, and nothing captured except system metrics."""
    # System metrics are those of the training process, so they require it to run on this machine.
    trainer_is_here = run.host == socket.gethostname() and Path(f"/proc/{run.pid}").exists()
    return {
        "silent": True,
        "use_dot_wandb": False,
        "console": "off",
        "host": run.host,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "program": "",
        "init_timeout": timeouts.init,
        "finish_timeout": timeouts.finish,
        "finish_timeout_raises": True,
        "x_save_requirements": False,
        # In the training process, the metadata would contain its command line, and in it perhaps credentials.
        "x_disable_meta": not trainer_is_here or run.pid == os.getpid(),
        "x_disable_stats": not trainer_is_here,
        "x_disable_machine_info": not trainer_is_here,
        "x_stats_pid": run.pid,
        "x_transaction_log_flush_interval": _FLUSH_INTERVAL,
    }
