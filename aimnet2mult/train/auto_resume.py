"""The run that ``--resume auto`` continues. Does not import torch.

A requeued job continues its own run, which it recognizes by the job recorded in the heartbeat. Otherwise it continues
the newest unfinished run; in a job array, however, only the run of the same task with the same settings, since the
other tasks train something else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimnet2mult.config.resume_rules import find_difference, list_newest_first
from aimnet2mult.errors import USER_ERRORS
from aimnet2mult.models.checkpoint_folder import find_newest
from telemetry import RunNotFound
from telemetry.reading.run_summary import summarize
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.job_identity import JobIdentity, current_job
from telemetry.run_folder.permissions import owner_of_new_files
from telemetry.run_folder.run_status import RunStatus

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.train.plan import Plan
    from aimnet2mult.train.trainer_wait import TrainerWait

__all__ = ["AutoResume", "find_own_runs"]


@dataclass(kw_only=True)
class AutoResume:
    """Selection among the runs that have the name of a requested training."""

    config: Config
    """The settings requested."""
    definition: Mapping[str, Any]
    """The model requested."""
    wait: TrainerWait
    plan: Callable[[Path], Plan]
    """Plans the resume of a run, or raises one of ``USER_ERRORS``."""
    plan_when_free: Callable[[Path], Plan]
    """Does the same after waiting for the trainer of the run to end."""
    job: JobIdentity | None = field(default_factory=current_job)
    """The job of this process."""

    def choose(self, folders: Sequence[Path]) -> Plan | None:
        """Return the plan for the run to continue, which may be complete; None if a new run is to be started.

        Args:
            folders: the run folders, newest first.

        Raises:
            ConfigError: the newest unfinished run has other settings, or cannot be resumed.
            RunAlive: the trainer of the run is alive on this machine, and this process is not part of a job.
            RunBusy: the trainer of the run is still alive after a long wait.
        """
        usable = [folder for folder in folders if not _has_failed_early(folder)]
        own = [folder for folder in usable if self.job is not None and _recorded_job(folder) == self.job]
        others = [folder for folder in usable if folder not in own]
        if self.job is not None and self.job.task is not None:
            return self._continue(own) or self._continue_task(others, self.job.task)
        plan = self._continue(own) or self._continue(_without_older_finished(others))
        if plan is None and usable and (difference := find_difference(usable[0], self.config, self.definition)):
            self.wait.say(f"{usable[0]} is another training: {difference}")
        return plan

    def _continue(self, folders: Sequence[Path]) -> Plan | None:
        """Choose a run with the same settings; otherwise the newest unfinished one, whose settings may be an error."""
        plan = self._find_same(folders, self.plan_when_free)
        return plan or next(filter(None, map(self._plan_other, filter(_is_unfinished, folders))), None)

    def _continue_task(self, folders: Sequence[Path], task: int) -> Plan | None:
        """Choose a run with the same settings that is not known to belong to another task of an array."""
        jobs = {folder: _recorded_job(folder) for folder in folders}
        ours = [folder for folder, job in jobs.items() if job is None or job.task in (None, task)]
        return self._find_same(ours, self._plan_unless_alive)

    def _find_same(self, folders: Sequence[Path], plan_unfinished: Callable[[Path], Plan | None]) -> Plan | None:
        """Return a plan for the newest run with the same settings; an extension of a finished one comes last."""
        extension = None
        for folder in folders:
            if find_difference(folder, self.config, self.definition):
                continue
            plan = plan_unfinished(folder) if _is_unfinished(folder) else self._plan_finished(folder)
            if plan is not None and (plan.nothing_left or plan.status_before != "finished"):
                return plan
            extension = extension or plan
        return extension

    def _plan_finished(self, folder: Path) -> Plan | None:
        try:
            return self.plan(folder)
        except USER_ERRORS as error:
            self.wait.say(f"not resuming the finished run {folder}: {_first_line(error)}")
            return None

    def _plan_unless_alive(self, folder: Path) -> Plan | None:
        if self.wait.is_alive(folder):
            self.wait.say(f"skipping {folder}: its trainer is alive")
            return None
        return self.plan(folder)

    def _plan_other(self, folder: Path) -> Plan | None:
        """Plan the resume of a run whose settings differ; an error if they cannot change, unless it is in training."""
        try:
            self.plan(folder)
        except USER_ERRORS as error:
            if not self.wait.is_alive(folder):
                raise
            self.wait.say(f"skipping a run whose trainer is alive: {_first_line(error)}")
            return None
        return self.plan_when_free(folder)


def find_own_runs(run_name: str, directory: Path, say: Callable[[str], None]) -> list[Path]:
    """Return the runs of this user, newest first: in a shared folder, others may have runs with the same name."""
    found = list_newest_first(run_name, directory)
    if not found:
        return []
    try:
        user = owner_of_new_files(directory)
    except OSError:
        user = os.geteuid()
    owners = {folder: _owner(folder) for folder in found}
    if others := sum(owner not in {user, None} for owner in owners.values()):
        say(f"skipping {others} run{'s' if others > 1 else ''} {run_name!r} of other users in {directory}")
    return [folder for folder, owner in owners.items() if owner == user]


def _owner(folder: Path) -> int | None:
    """Return the user ID of the owner; None if the folder has just been removed, as after a failed start."""
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _recorded_job(folder: Path) -> JobIdentity | None:
    heartbeat = read_heartbeat(folder)
    return None if heartbeat is None else heartbeat.job


def _status(folder: Path) -> RunStatus | None:
    """Return the status of a run, None without a journal; reads only the end of the journal, as there may be many."""
    try:
        return summarize(folder, None).status
    except RunNotFound:
        return None


def _is_unfinished(folder: Path) -> bool:
    return _status(folder) != "finished"


def _has_failed_early(folder: Path) -> bool:
    """Return whether a run failed before its first checkpoint; it would only fail again."""
    return _status(folder) == "failed" and find_newest(folder) is None


def _without_older_finished(folders: Sequence[Path]) -> list[Path]:
    """Return the unfinished runs, and the newest one; reading the settings of many finished runs would take long."""
    return [folder for index, folder in enumerate(folders) if not index or _is_unfinished(folder)]
