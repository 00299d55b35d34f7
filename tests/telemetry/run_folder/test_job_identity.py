"""The SLURM job of a trainer: read from the environment, kept in the heartbeat."""

import json
from pathlib import Path

import msgspec
import pytest

import telemetry
from support.telemetry_fakes import FOREIGN
from telemetry.run_folder.heartbeat import Counts, Heartbeat, read_heartbeat, write_heartbeat
from telemetry.run_folder.job_identity import JobIdentity, current_job

TASK = {"SLURM_JOB_ID": "1007", "SLURM_ARRAY_JOB_ID": "1003", "SLURM_ARRAY_TASK_ID": "4"}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "17"}, JobIdentity(job=17)),
        (TASK, JobIdentity(job=1003, task=4)),
        (TASK | {"SLURM_JOB_ID": "1009"}, JobIdentity(job=1003, task=4)),
        ({"SLURM_JOB_ID": "seventeen"}, None),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "17"}, None),
    ],
)
def test_a_job_is_identified_by_its_id_or_by_its_array_and_index(
    environment: dict[str, str], job: JobIdentity | None
) -> None:
    assert current_job(environment) == job


def test_a_trainer_records_its_job_as_long_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    for resume_step in (None, 0):
        with telemetry.open_run(tmp_path / "run", sinks=[], resume_step=resume_step):
            assert _job(tmp_path / "run") == JobIdentity(job=1003, task=4)
        assert _job(tmp_path / "run") == JobIdentity(job=1003, task=4)
    for name in TASK:
        monkeypatch.delenv(name)
    telemetry.open_run(tmp_path / "run", sinks=[], resume_step=0).close()
    assert _job(tmp_path / "run") is None
    assert "job" not in json.loads((tmp_path / "run" / "alive.json").read_bytes())


def test_a_heartbeat_without_a_job_is_that_of_earlier_versions(tmp_path: Path) -> None:
    beat = Heartbeat(trainer=FOREIGN, attempt=1, beat=2, counts=Counts())
    write_heartbeat(tmp_path, beat)
    assert set(msgspec.json.decode((tmp_path / "alive.json").read_bytes())) == {"trainer", "attempt", "beat", "counts"}
    assert read_heartbeat(tmp_path) == beat


def _job(folder: Path) -> JobIdentity | None:
    heartbeat = read_heartbeat(folder)
    assert heartbeat is not None
    return heartbeat.job
