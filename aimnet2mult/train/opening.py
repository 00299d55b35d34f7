"""Open the run of a plan, after the checks of telemetry and of the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from aimnet2mult.config.label_settings import drop_labels
from aimnet2mult.models.definition import max_element
from aimnet2mult.train.data_check import check_data
from aimnet2mult.train.new_folders import remove_empty
from aimnet2mult.train.plan import echo
from telemetry import MetricBus
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import RunPlan, plan_run

if TYPE_CHECKING:
    from aimnet2mult.train.plan import Plan
    from aimnet2mult.train.trainer_wait import TrainerWait

__all__ = ["check_plan", "removing_blank_folder", "start"]

PACKAGES = ("aimnet2mult", "aimnet", "torch", "pytorch-ignite", "numpy")
"""Packages whose versions the run records."""


def check_plan(plan: Plan, wait: TrainerWait) -> tuple[Plan, RunPlan]:
    """Check telemetry and then, which may take minutes, the data.

    Raises:
        RunAlive: another process has opened the run.
        DataError: the data are unusable.
        TelemetryError: a setting of telemetry does not fit.
    """
    run = _plan_run(plan, wait)
    report = check_data(
        plan.config,
        plan.folder.parent,
        resumes=plan.checkpoint is not None,
        max_element=max_element(plan.definition),
    )
    if report.absent:
        plan = _without_labels(plan, report.absent)
        run = _plan_run(plan, wait)
    if report.bad_rows:
        params = {**run.record.params, "skipped_structures": report.bad_count}
        run = msgspec.structs.replace(run, record=msgspec.structs.replace(run.record, params=params))
    return replace(plan, report=report.without_details()), run


def _without_labels(plan: Plan, names: Sequence[str]) -> Plan:
    """Return a plan that does not train labels that no data set has."""
    are = "labels are" if len(names) > 1 else "label is"
    echo(f"not trained, because the {are} in no data set: {', '.join(names)}", err=True)
    return replace(plan, config=drop_labels(plan.config, names))


def _plan_run(plan: Plan, wait: TrainerWait) -> RunPlan:
    config = plan.config
    params = {**msgspec.to_builtins(config, str_keys=True), "model": plan.definition}
    return plan_run(
        plan.folder,
        name=config.run_name,
        project=config.project_name,
        params=params,
        metrics=plan.metrics,
        versions={package: version(package) for package in PACKAGES},
        settings=plan.settings,
        resume_step=plan.resume_step,
        trainer=wait.probe(plan.folder),
        given=plan.given_options,
    )


def start(run: RunPlan) -> MetricBus:
    """Open the run.

    Raises:
        RunAlive: another process has opened it since it was planned.
        RunFolderError: the folder cannot be written to.
    """
    for sink, assignments in run.unconfirmed.items():
        confirming = " ".join(f"telemetry.{assignment}" for assignment in assignments)
        echo(
            f"warning: {sink} is left out, because its destination comes from the run folder; its records stay in the "
            f"journal. If you trust the destination, add to the command: {confirming}",
            err=True,
        )
    return start_run(run)


@contextlib.contextmanager
def removing_blank_folder(plan: Plan) -> Iterator[None]:
    """Remove the folder of a new run in case of an error; one that is not empty stays."""
    try:
        yield
    except BaseException:
        remove_empty(plan.new_folders)
        raise
