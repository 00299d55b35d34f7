"""A thread of the trainer that delivers to one sink."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from telemetry.delivery.delivery import Delivery
from telemetry.delivery.log_stream import append_to
from telemetry.errors import TelemetryError
from telemetry.logger import log
from telemetry.plugins.registry import Sink
from telemetry.run_folder.paths import log_path
from telemetry.settings import Settings


class ThreadWorker:
    """A daemon thread that delivers until the run has ended or ``stop`` is called.

    Args:
        folder: the run folder.
        sink: the sink and its options.
        settings: the settings for the delivery.
        make_delivery: function called in the thread, with the arguments of ``Delivery``.
    """

    def __init__(
        self, folder: Path, sink: Sink, settings: Settings, *, make_delivery: Callable[..., Delivery] = Delivery
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._settings = settings
        self._make_delivery = make_delivery
        self._wake_up = threading.Event()
        self._stop_requested = False
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{sink.name}", daemon=True)

    def start(self) -> None:
        """Start the thread; if that fails, log it."""
        try:
            self._thread.start()
        except RuntimeError as error:
            # The caller is the thread that writes the journal; it must continue.
            log.warning("%s: cannot start delivery (%s); run `telemetry sync`", self._sink.name, error)

    def wake(self) -> None:
        """Make the thread read the journal now."""
        self._wake_up.set()

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the thread to end; return whether it has."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Make the thread end as soon as no hook of the sink is running."""
        self._stop_requested = True
        self.wake()

    def _run(self) -> None:
        try:
            delivery = self._make_delivery(
                self._folder,
                self._sink,
                self._settings,
                wait=self._wait,
                stop=lambda: self._stop_requested,
                on_hang=self._log_hang,
                log=append_to(log_path(self._folder, self._sink.name)),
                warn=log.warning,
            )
            while not delivery.lease.try_acquire():
                self._wait(self._settings.poll)
                if self._stop_requested:
                    return
            delivery.run()
        except (OSError, TelemetryError) as error:
            log.warning("%s: delivery ended (%s)", self._sink.name, error)

    def _wait(self, seconds: float) -> None:
        self._wake_up.wait(seconds)
        self._wake_up.clear()

    def _log_hang(self) -> None:
        timeout = self._settings.hook_timeout
        log.warning("%s: no answer for %.0f s", self._sink.name, timeout)
