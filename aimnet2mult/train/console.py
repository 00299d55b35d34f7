"""Show the progress of a training run on the terminal."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from aimnet2mult.quantities import LABELS
from telemetry.redaction import safe_line

if TYPE_CHECKING:
    from aimnet2mult.train.reporter import Alert

__all__ = ["Console", "NullConsole"]

# A closed terminal, a broken pipe or a log on a full disk must not stop training.
_OUTPUT_ERRORS = (OSError, ValueError)
_MAX_ALERT_LENGTH = 100


class Console:
    """On a terminal, a progress bar with the latest values; otherwise, a line per epoch.

    Args:
        units: display unit of each trained label, and the factor that converts its source unit to it.
        epochs: number of epochs of the run.
        stream: output stream; by default stderr.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        units: Mapping[str, tuple[str, float]],
        *,
        epochs: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._units = units
        self._epochs = epochs
        # A process can be started without stderr.
        self._stream = stream or sys.stderr or io.StringIO()
        self._clock = clock
        self._bar: tqdm[None] | None = None
        self._bar_decided = False
        self._shown: Mapping[str, float] = {}
        self._alerts: Sequence[Alert] = ()
        self._epoch_start: tuple[int, float] | None = None

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        line = safe_line(line)
        with contextlib.suppress(*_OUTPUT_ERRORS):
            if self._bar is None:
                print(line, file=self._stream, flush=True)
            else:
                self._bar.write(line, file=self._stream)

    def iteration(self, step: int, total: int, latest: Mapping[str, float], alerts: Sequence[Alert] = ()) -> None:
        """Show that an iteration is complete.

        Args:
            step: the iteration.
            total: number of iterations of the run.
            latest: the newest values by full name, in source units.
            alerts: active anomaly alerts. Like ``latest``, they are displayed when a new object is passed.
        """
        if self._epoch_start is None:
            self._epoch_start = (step - 1, self._clock())
        with contextlib.suppress(*_OUTPUT_ERRORS):
            self._show(step, total, latest, alerts)

    def _show(self, step: int, total: int, latest: Mapping[str, float], alerts: Sequence[Alert]) -> None:
        if self._bar is None and not self._bar_decided:
            self._bar_decided = True
            if self._stream.isatty():
                self._bar = tqdm(total=total, initial=step - 1, file=self._stream, unit="it", dynamic_ncols=True)
        if self._bar is not None:
            if latest is not self._shown or alerts is not self._alerts:
                self._shown, self._alerts = latest, alerts
                texts = [
                    self._text(latest, "train_window"),
                    *(f"! {safe_line(alert.title, _MAX_ALERT_LENGTH)}" for alert in alerts),
                ]
                self._bar.set_postfix_str("; ".join(texts), refresh=False)
            self._bar.update()

    def epoch(self, epoch: int, step: int, latest: Mapping[str, float]) -> None:
        """Show that an epoch is complete; ``latest`` contains the newest values by full name, in source units."""
        first, began = self._epoch_start or (step, 0.0)
        now = self._clock()
        self._epoch_start = (step, now)
        rate = (step - first) / max(now - began, 1e-9)
        texts = {"train": self._text(latest, "train_epoch"), "val": self._text(latest, "val")}
        shown = [f"{name} {text}" for name, text in texts.items() if text]
        self.say("; ".join([f"epoch {epoch}/{self._epochs}, iteration {step}", *shown, f"{rate:.1f} it/s"]))

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        if self._bar is not None:
            with contextlib.suppress(*_OUTPUT_ERRORS):
                self._bar.close()
            self._bar = None

    def _text(self, latest: Mapping[str, float], stream: str) -> str:
        shown = [f"loss {latest[f'{stream}/loss']:.4g}"] if f"{stream}/loss" in latest else []
        for name, (unit, factor) in self._units.items():
            abbr = LABELS[name].abbr
            value = latest.get(f"{stream}/{abbr}_rmse")
            if value is not None:
                shown.append(f"{abbr} {value * factor:.4g} {unit}")
        shown += [
            f"{skipped:.0f} skipped {what}{'s' if skipped > 1 else ''}"
            for what in ("step", "structure")
            if (skipped := latest.get(f"{stream}/skipped_{what}s"))
        ]
        return ", ".join(shown)


class NullConsole(Console):
    """A console that shows nothing, used on all ranks but the first."""

    def __init__(self) -> None:
        super().__init__({}, epochs=0)

    def say(self, line: str) -> None:
        """Do nothing."""

    def iteration(self, step: int, total: int, latest: Mapping[str, float], alerts: Sequence[Alert] = ()) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, step: int, latest: Mapping[str, float]) -> None:
        """Do nothing."""
