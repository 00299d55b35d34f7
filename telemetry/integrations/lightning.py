"""Telemetry for Lightning: ``Trainer(logger=TelemetryLogger("runs/x", sinks="wandb,tensorboard"))``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_only

from telemetry import Metric, Settings
from telemetry.integrations.host_run import HostRun

if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
elif "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
else:
    try:
        from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    except ImportError:
        from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment

__all__ = ["TelemetryLogger"]


class TelemetryLogger(Logger):
    """Record what a ``LightningModule`` logs, and its hyperparameters.

    ``val_loss`` and ``val/loss`` are the metric ``loss`` of the stream ``val`` (see ``HostNames``); steps are those of
    Lightning. The run is opened by the first value on rank 0, so that nothing is open before processes are forked. It
    is closed at the end of ``fit``, ``test`` …; what follows becomes its next attempt. Checkpoints are saved in the run
    folder, unless ``ModelCheckpoint`` says otherwise.

    Works with ``lightning.pytorch`` and ``pytorch_lightning``.

    Args:
        path: the run folder. If it contains a run, the new one is opened in ``<path>-2`` …, or continued: see
            ``resume``.
        sinks, metrics, name, project, settings: as for ``telemetry.open_run``. The interval between points is
            ``Trainer(log_every_n_steps=…)``.
        resume: whether to continue the run in ``path``, if there is one, for ``Trainer.fit(ckpt_path=…)``.

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
        super().__init__()
        self._run = HostRun(
            path, sinks=sinks, metrics=metrics, name=name, project=project, settings=settings, resume=resume
        )
        _register_with_both_packages()

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self._run.folder.name

    @property
    def version(self) -> str:
        """Empty: Lightning appends it to the folder of checkpoints."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder that contains the run folder."""
        return str(self._run.folder.parent)

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self._run.folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The bus of the run, which its first use opens, for example ``experiment.image("val/parity", step, figure)``.

        On other ranks, it does nothing.
        """
        return _Experiment(self._run)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record values; see ``HostRun.log``."""
        self._run.log(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Record hyperparameters as parameters of the run."""
        if params is not None:
            self._run.params(params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run, as finished after ``success``, and wait for its sinks (see ``Settings.drain_timeout``)."""
        error = sys.exc_info()[1]
        self._run.record_params()
        if status in ("success", "finished"):
            self._run.close()
        elif error is not None:
            self._run.close_after(error, is_preempted=type(error).__name__ == "SIGTERMException")
        else:
            self._run.close("failed", status)


class _Experiment:
    """The bus of a run, which is opened by the first use of an attribute."""

    def __init__(self, run: HostRun) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._run.bus, name)


def _register_with_both_packages() -> None:
    """Make the logger an instance of the base classes of both packages, as far as they are imported."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        module = sys.modules.get(f"{package}.loggers.logger")
        if module is not None:
            module.Logger.register(TelemetryLogger)
