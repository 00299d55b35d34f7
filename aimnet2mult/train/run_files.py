"""Write what defines a run, and what a resume needs, to the run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.resume_rules import CONFIG_FILE, MODEL_FILE
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.data_check import write_skipped

if TYPE_CHECKING:
    from aimnet2mult.train.components import Components
    from aimnet2mult.train.plan import Plan

__all__ = ["write_inputs", "write_settings"]


def write_settings(plan: Plan) -> None:
    """Write the settings, the definition of the model, and the list of skipped structures.

    Raises:
        ConfigError: The disk is full, or the folder cannot be written to.
    """
    with _reporting_full_disk(plan):
        # A folder is a run that can be resumed as soon as it contains the settings.
        write_yaml(plan.folder / MODEL_FILE, plan.definition)
        write_yaml(plan.folder / CONFIG_FILE, plan.config.to_dict())
        write_skipped(plan)


def write_inputs(plan: Plan, components: Components) -> None:
    """Write the reference energies and the checksums of the data; for a resume, the settings as well.

    Only now is it certain that the settings fit the run to be resumed.

    Raises:
        ConfigError: The disk is full, or the folder cannot be written to.
    """
    from aimnet2mult.train.components import record_inputs

    if plan.resume_step is not None:
        write_settings(plan)
    with _reporting_full_disk(plan):
        record_inputs(components, plan.config.fidelity_names, plan.folder)


@contextlib.contextmanager
def _reporting_full_disk(plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write the settings to {plan.folder}: {error.strerror or error}; free some space, or choose "
            "another folder with --telemetry-dir"
        ) from error
