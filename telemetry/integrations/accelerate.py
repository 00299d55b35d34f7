"""Telemetry for accelerate: ``Accelerator(log_with=TelemetryTracker("runs/x", sinks="wandb,tensorboard"))``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

from telemetry import Metric, MetricBus, NullBus, Settings
from telemetry.integrations.host_run import HostRun

__all__ = ["TelemetryTracker"]


class TelemetryTracker(GeneralTracker):
    """Record what ``accelerator.log`` gets, and the configuration given to ``init_trackers``.

    ``val_loss`` and ``val/loss`` are the metric ``loss`` of the stream ``val`` (see ``HostNames``). The run is opened
    by the first value, on the main process, and closed by ``end_training``, or at the end of the program.

    Args:
        path: the run folder. If it contains a run, the new one is opened in ``<path>-2`` …, or continued: see
            ``resume``.
        sinks, metrics, name, project, settings: as for ``telemetry.open_run``; everything logged is recorded.
        resume: whether to continue the run in ``path``, if there is one.

    Raises:
        TelemetryError: an argument is invalid.
    """

    name = "telemetry"
    requires_logging_directory = False
    main_process_only = True

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

    @property
    def tracker(self) -> MetricBus | NullBus:
        """The bus of the run, which is opened now."""
        return self._run.bus

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Record the configuration as parameters of the run."""
        self._run.params(values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """Record values; see ``HostRun.log``."""
        self._run.log(values, step)

    @on_main_process
    def log_images(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """Record images, each one or several, which get the names ``<name>/0``, ``<name>/1`` and so on.

        Args:
            values: by name, what ``MetricBus.image`` accepts or an image of Pillow; or a list or batch of them.
            step: the iteration; by default that of the last call.
        """
        for name, images in values.items():
            for full, image in _numbered(name, images):
                self._run.media("image", full, step, image)

    @on_main_process
    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: Iterable[Iterable[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **_: Any,
    ) -> None:
        """Record a table, given by rows and the names of the columns, by default the first row, or as a DataFrame."""
        if dataframe is not None:
            columns, data = list(dataframe.columns), dataframe.itertuples(index=False, name=None)
        rows = [list(row) for row in data or ()]
        if columns is None:
            columns, *rows = rows or [[]]
        self._run.media("table", table_name, step, [str(column) for column in columns], rows)

    @on_main_process
    def finish(self) -> None:
        """Close the run, and wait for its sinks (see ``Settings.drain_timeout``)."""
        self._run.record_params()
        self._run.close()


def _numbered(name: str, images: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and contents of images: a single one, a list, or an array or tensor with four dimensions."""
    is_batch = getattr(images, "ndim", 0) == 4  # noqa: PLR2004 - NHWC
    if is_batch or isinstance(images, list | tuple):
        yield from ((f"{name}/{number}" if len(images) > 1 else name, image) for number, image in enumerate(images))
    else:
        yield name, images
