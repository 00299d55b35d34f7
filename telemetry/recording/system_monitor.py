"""The stream ``system``: processors, memory and GPUs, sampled in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from telemetry.errors import format_error
from telemetry.metrics import SYSTEM, Metric
from telemetry.recording.journal_thread import avoid_preemption
from telemetry.recording.warn_once import WarnOnce


class Probe(Protocol):
    """Something that is sampled; called in the thread of the monitor only."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The declaration of each value, by name within the stream."""
        ...

    def read(self) -> Mapping[str, float]:
        """Return the current values; those that are unavailable are absent. Any exception is reported once."""
        ...


class SystemMonitor:
    """Sample probes at an interval, and publish the mean values since the last point.

    A point has the step of the newest point of the other streams, so that all streams share an axis; without a new one,
    no point is published. Nothing is done before the first interval has passed.
    """

    def __init__(
        self,
        interval: float,
        *,
        publish: Callable[[int, Mapping[str, float]], object],
        declare: Callable[[Mapping[str, Metric]], object],
        newest_step: Callable[[], int],
        makers: Sequence[Callable[[], Probe]] | None = None,
    ) -> None:
        """Prepare to sample.

        Args:
            interval: seconds between samples; 0 turns everything off.
            publish: function that publishes values of the stream at a step.
            declare: function that declares metrics by full name.
            newest_step: function that returns the highest step recorded so far, 0 before the first.
            makers: functions that return the probes, called after the first interval; ImportError means that a package
                is not installed. By default, processes and GPUs.
        """
        self._interval = interval
        self._publish = publish
        self._declare = declare
        self._newest_step = newest_step
        self._makers = list((process_probe, gpu_probe) if makers is None else makers)
        self._probes: list[Probe] = []
        self._sums: dict[str, tuple[float, int]] = {}
        self._published = 0
        self._declared: set[str] = set()
        self._warn_once = WarnOnce()
        self._stopped = threading.Event()
        # Reentrant, because a signal handler may stop it while it is being stopped.
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start the thread, unless the interval is 0."""
        if self._interval:
            threading.Thread(target=self._run, name="telemetry-system", daemon=True).start()

    def stop(self) -> None:
        """Publish nothing from now on."""
        self._stopped.set()
        # A point that is being published is complete afterwards.
        with self._lock:
            pass

    def add(self, probe: Probe) -> None:
        """Sample another probe, too."""
        self._makers.append(lambda: probe)

    def sample(self) -> None:
        """Read all probes, and publish a point if the run has advanced."""
        while self._makers:
            with self._reporting(), contextlib.suppress(ImportError):
                self._probes.append(self._makers.pop(0)())
        for probe in self._probes:
            with self._reporting():
                for name, value in probe.read().items():
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = total + value, count + 1
        step = self._newest_step()
        if step > self._published and self._sums:
            self._published = step
            with self._reporting():
                self._publish_means(step)

    def _publish_means(self, step: int) -> None:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        metrics = {name: metric for probe in self._probes for name, metric in probe.metrics.items()}
        new = {f"{SYSTEM}/{name}": metrics[name] for name in means if name not in self._declared}
        self._declared.update(means)
        with self._lock:
            if self._stopped.is_set():
                return
            if new:
                self._declare(new)
            self._publish(step, means)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report an error once; drivers fail in many ways, which must not matter."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            text = format_error(error)
            self._warn_once(text, f"some system metrics are missing: {text}")

    def _run(self) -> None:
        avoid_preemption()
        while not self._stopped.wait(self._interval):
            self.sample()


class ValueProbe:
    """A single value, read by a function of the caller."""

    def __init__(self, name: str, metric: Metric, read: Callable[[], float]) -> None:
        """Read ``name`` by calling ``read``."""
        self.metrics = {name: metric}
        self._name, self._read = name, read

    def read(self) -> dict[str, float]:
        """Return the current value."""
        return {self._name: float(self._read())}


def process_probe() -> Probe:
    """Return a ``ProcessProbe``; raises ImportError without psutil."""
    from telemetry.recording.process_probe import ProcessProbe

    return ProcessProbe()


def gpu_probe() -> Probe:
    """Return a ``GpuProbe``; raises ImportError without nvidia-ml-py."""
    from telemetry.recording.gpu_probe import GpuProbe

    return GpuProbe()
