"""Telemetry for transformers: ``Trainer(callbacks=[TelemetryCallback("runs/x", sinks="wandb,tensorboard")])``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from telemetry import Metric, Settings
from telemetry.integrations.host_run import HostRun

__all__ = ["TelemetryCallback"]


class TelemetryCallback(TrainerCallback):
    """Record what a ``Trainer`` logs, its arguments and the configuration of its model.

    Names are those of the other callbacks of transformers: ``eval_loss`` is ``eval/loss``, and ``loss`` is
    ``train/loss``. Only the first process records. The run is opened by the first value and closed at the end of
    ``train``; later evaluations become its next attempt. Training from a checkpoint continues the run after the step of
    the checkpoint if ``resume`` is true. Trials of a hyperparameter search have runs of their own.

    Args:
        path: the run folder. If it contains a run, the new one is opened in ``<path>-2`` …, or continued: see
            ``resume``.
        sinks, metrics, name, project, settings: as for ``telemetry.open_run``. The interval between points is
            ``TrainingArguments(logging_steps=…)``.
        resume: whether to continue the run in ``path``, if there is one, for ``train(resume_from_checkpoint=…)``.

    Raises:
        TelemetryError: an argument is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sinks: str | Iterable[str | object] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        name: str | None = None,
        project: str | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self._path = path
        self._options: dict[str, Any] = {
            "sinks": sinks,
            "metrics": metrics,
            "name": name,
            "project": project,
            "settings": settings,
        }
        self._run = HostRun(path, resume=resume, **self._options)
        self._is_training = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the parameters, and the step of the checkpoint that training continues from."""
        if not state.is_world_process_zero:
            return
        if self._is_training:
            # transformers calls no hook if training raises, and the program may catch the exception and try again.
            self._run.close("failed", "training ended with an exception")
        elif state.global_step or state.is_hyper_param_search:
            self._run.close()
        self._is_training = True
        if state.is_hyper_param_search:
            self._run = HostRun(self._path, **self._options)
        elif not self._run.is_open:
            self._run.resume_step = state.global_step or None
        self._run.params(_parameters(args, kwargs.get("model"), state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what is logged, at the global step."""
        if state.is_world_process_zero and logs:
            self._run.log({_name(name): value for name, value in logs.items()}, state.global_step)

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        """Record the metrics of ``predict``, which the trainer does not log."""
        self.on_log(args, state, control, metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run as finished, and wait for its sinks (see ``Settings.drain_timeout``)."""
        self._is_training = False
        self._run.close()


def _parameters(args: TrainingArguments, model: Any, state: TrainerState) -> dict[str, Any]:
    """Return the parameters of a run; ``to_sanitized_dict`` leaves out tokens."""
    config = getattr(model, "config", None)
    parameters: dict[str, Any] = {"args": args.to_sanitized_dict()}
    if config is not None and hasattr(config, "to_diff_dict"):
        parameters["model"] = config.to_diff_dict()
    if state.is_hyper_param_search and state.trial_params:
        parameters["trial"] = dict(state.trial_params)
    return parameters


def _name(name: str) -> str:
    """Return the name of a metric as the other callbacks of transformers show it."""
    for stream in ("eval", "test"):
        if name.startswith(f"{stream}_"):
            return f"{stream}/{name.removeprefix(f'{stream}_')}"
    return f"train/{name}"
