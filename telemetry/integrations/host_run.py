"""The run of a trainer of another framework, which decides what is recorded, and when."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from telemetry import Metric, MetricBus, NullBus, Settings, Status, TelemetryError
from telemetry.cadence import ALL
from telemetry.errors import error_text, format_error
from telemetry.integrations.host_names import EVALUATIONS
from telemetry.integrations.host_values import HostValues
from telemetry.integrations.pending_values import PendingValues
from telemetry.journal.newest_points import last_step
from telemetry.logger import log
from telemetry.plugins.registry import select
from telemetry.recording.arguments import check_metrics, parse_settings, parse_sinks_argument
from telemetry.recording.ending import status_after
from telemetry.recording.open_run import open_or_resume
from telemetry.recording.params import plain_params
from telemetry.recording.run_plan import free_folder, has_run
from telemetry.recording.steps import parse_step
from telemetry.recording.warn_once import WarnOnce
from telemetry.units import factors


class HostRun:
    """A run that is opened by the first thing to record, and reopened as its next attempt after ``close``.

    Until then nothing is created, so that an instance may be pickled or inherited by a fork. Whoever records first is
    the process that publishes: the adapter calls the methods only on the first rank. Errors in the arguments are raised
    at once; if the run cannot be opened later, training continues without telemetry, after a message.

    Args:
        path, metrics, name, project, sinks: as for ``open_run``.
        settings: as for ``open_run``, but everything logged is recorded: the framework decides what is due.
        resume: whether to continue the run in ``path``, if there is one. If training begins at an iteration before its
            last one, because the checkpoint is older, the points in between are superseded.

    Attributes:
        resume_step: the iteration after which training continues, if the framework tells it before the run is opened.

    Raises:
        SinkNotFound, SinkNotInstalled, PluginError, SettingError, UnitError: see ``telemetry.errors``.
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
        self.resume_step: int | None = None
        parsed = msgspec.structs.replace(parse_settings(settings), events=(ALL,))
        chosen = parsed.sinks if sinks is None else list(parse_sinks_argument(sinks))
        select(chosen, parsed.options)
        check_metrics(metrics or {}, resumes=resume)
        factors(metrics or {})
        self._request: dict[str, Any] = {
            "metrics": metrics,
            "name": name,
            "project": project,
            "sinks": chosen,
            "settings": parsed,
        }
        self._path = Path(path)
        self._resume = resume
        self._is_first = True
        self._params: dict[str, Any] = {}
        self._values = HostValues()
        self._step: int | None = None
        self._bus: MetricBus | NullBus | None = None
        self._warn_once = WarnOnce()

    @property
    def folder(self) -> Path:
        """The run folder. Asked for before the run is opened, it is chosen now, for example for checkpoints."""
        if isinstance(self._bus, MetricBus):
            return self._bus.folder
        if not self._resume and has_run(self._path):
            self._path = free_folder(self._path)
        return self._path

    @property
    def is_open(self) -> bool:
        """Whether the run is open."""
        return self._bus is not None

    @property
    def bus(self) -> MetricBus | NullBus:
        """The bus of the run, which is opened now; a ``NullBus`` if it cannot be opened."""
        return self._open(None)

    def params(self, params: object) -> None:
        """Add parameters, in any form that ``open_run`` accepts; others are left out, with a warning."""
        try:
            self._params |= plain_params(params)
        except TelemetryError as error:
            self._warn_once("params", f"parameters are not recorded: {error}")
        if self._bus is not None:
            self._bus.params(self._params)

    def log(self, values: Mapping[Any, Any], step: int | None = None) -> None:
        """Record values under the names of the framework; see ``HostNames``.

        Numbers, and arrays and tensors with one element, are recorded as points; texts as texts; the values of nested
        mappings under names joined with ``/``. Anything else is left out, with one warning per type.

        Args:
            values: the values by name. Tensors are copied, but not read in this thread.
            step: the iteration; by default the one after the last.
        """
        try:
            self._log(values, step)
        except Exception as error:  # noqa: BLE001 - the objects are those of the host, which must not be stopped
            self._warn_once("log", f"values are not recorded: {error_text(error)}")

    def media(self, kind: str, name: object, step: int | None, *content: Any) -> None:
        """Record a text, table, image, histogram or artifact, ``kind``, under a name of the framework."""
        try:
            stream, metric = self._values.names.resolve(str(name))
            bus, step = self._begin((stream,), step)
            getattr(bus, kind)(f"{stream}/{metric}", step, *content)
        except Exception as error:  # noqa: BLE001 - as in log
            self._warn_once(kind, f"a {kind} is not recorded: {error_text(error)}")

    def record_params(self) -> None:
        """Open the run if it never was and has parameters, which would otherwise be lost."""
        if self._is_first and self._params:
            self._open(None)

    def close(self, status: Status = "finished", reason: str = "") -> None:
        """End the current attempt, if the run is open; what is logged later opens the next one."""
        if self._bus is not None:
            self._bus.close(status, reason=reason)
            self._path, self._resume, self._is_first = self.folder, True, False
            self._bus = self.resume_step = None

    def close_after(self, error: BaseException, *, is_preempted: bool = False) -> None:
        """End the current attempt after an exception: as preempted after Ctrl-C or if told so, otherwise as failed."""
        status, reason = status_after(error)
        self.close("preempted" if is_preempted or isinstance(error, KeyboardInterrupt) else status, reason)

    def flush(self) -> None:
        """Wait until everything logged so far is durable, for a few seconds at most."""
        if self._bus is not None:
            self._bus.flush()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which begins the run or continues it; afterwards, this one continues.

        With ``ddp_spawn``, for example, ``fit`` and ``test`` start processes of their own.
        """
        state = self._state()
        if not self._resume:
            self._resume, self._is_first = True, False
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> HostRun:
        """Return an instance for this process, which gets another folder if both record."""
        twin = object.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self._state(), memo))
        return twin

    def _state(self) -> dict[str, Any]:
        return self.__dict__ | {"_bus": None, "_path": self.folder, "_resume": self._resume or self.is_open}

    def _log(self, values: Mapping[Any, Any], step: int | None) -> None:
        streams, texts = self._values.sort(values)
        bus, step = self._begin(streams, step)
        for stream, numbers in streams.items():
            if new := self._values.without_repeated(stream, step, numbers):
                bus.publish(stream, step, PendingValues(new).wait)
        for name, text in texts.items():
            bus.text(name, step, text)

    def _begin(self, streams: Iterable[str], step: object) -> tuple[MetricBus | NullBus, Any]:
        """Return the bus and the step of what is logged; an invalid one is left to the bus, which counts it."""
        number = None
        if step is not None:
            with contextlib.suppress(ValueError):
                step = number = parse_step(step)
        trains = number if number and not EVALUATIONS.issuperset(streams) else None
        bus = self._open(trains)
        if step is None:
            step = number = 0 if self._step is None else self._step + 1
        if number is not None:
            self._step = number
        return bus, step

    def _open(self, first_step: int | None) -> MetricBus | NullBus:
        """Open the run unless it is open; ``first_step`` is the first iteration of training that is recorded."""
        if self._bus is None:
            try:
                self._bus = self._opened(first_step)
            except Exception as error:  # noqa: BLE001 - for example a disk that fails; training must not be stopped
                log.error("training continues without telemetry: %s", format_error(error))
                self._bus = NullBus(events=(ALL,))
        return self._bus

    def _opened(self, first_step: int | None) -> MetricBus:
        path = self._path.absolute()
        resume_step = self.resume_step
        if self._resume and path.is_dir():
            last = last_step(path)
            if self._step is None and last:
                self._step = last
            if resume_step is None and self._is_first and first_step is not None and first_step <= last:
                resume_step = first_step - 1
        return open_or_resume(
            path,
            resume=self._resume,
            resume_step=resume_step if self._resume else None,
            skips_repeated=False,
            params=self._params,
            **self._request,
        )
