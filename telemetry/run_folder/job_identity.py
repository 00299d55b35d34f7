"""Identify the SLURM job that runs a trainer, so that the same job can find its run after a requeue."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec


class JobIdentity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The identity of a SLURM job, which a requeue does not change.

    Attributes:
        job: the ID of the job; of an array, the ID common to its tasks.
        task: the index in the array; None if the job is not part of an array.
    """

    job: int
    task: int | None = None

    def __str__(self) -> str:
        return f"job {self.job}" if self.task is None else f"array task {self.job}_{self.task}"


def current_job(environment: Mapping[str, str] = os.environ) -> JobIdentity | None:
    """Return the SLURM job of this process; None outside of SLURM, or if its variables are not numbers."""
    task = environment.get("SLURM_ARRAY_TASK_ID")
    try:
        if task is None:
            return JobIdentity(job=int(environment["SLURM_JOB_ID"]))
        return JobIdentity(job=int(environment["SLURM_ARRAY_JOB_ID"]), task=int(task))
    except (KeyError, ValueError):
        return None
