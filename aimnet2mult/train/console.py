"""Show the progress of a training run on the terminal, or in a file that is read with ``tail -f``."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from telemetry.redaction import safe_line

if TYPE_CHECKING:
    from aimnet2mult.train.reporter import Alert

__all__ = ["Console", "NullConsole"]

PROGRESS_INTERVAL = 30.0
"""Seconds between lines of progress, by default, if the output is not a terminal."""
BAR_INTERVAL = 0.5
"""Seconds between updates of the texts beside the bar."""
BAR = "{desc} |{bar:10}| {n_fmt}/{total_fmt}{postfix}"
"""Format of the bar; the end is cut off on a narrow terminal."""
MAX_ALERT_LENGTH = 50
"""Maximum number of characters of an alert beside the bar; the whole text is printed in a line of its own."""
# A closed terminal, a broken pipe or a log on a full disk must not stop training.
_OUTPUT_ERRORS = (OSError, ValueError)


class Console:
    """Progress within the epoch, and a line per epoch.

    On a terminal, the progress is a bar with the latest values; otherwise, it is a line as soon as there is a loss, and
    one every few seconds. Lines may be printed from any thread.

    Args:
        units: display unit of each trained label, by its abbreviation, and the factor that converts its source unit.
        epochs: number of epochs of the run.
        interval: seconds between lines of progress if the output is not a terminal.
        stream: output stream; by default stderr.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        units: Mapping[str, tuple[str, float]],
        *,
        epochs: int,
        interval: float = PROGRESS_INTERVAL,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._units = units
        self._epochs = epochs
        self._interval = interval
        # A process can be started without stderr.
        self._stream = stream or sys.stderr or io.StringIO()
        self._is_terminal = not self._stream.closed and self._stream.isatty()
        self._clock = clock
        self._bar: tqdm[None] | None = None
        self._total = 0
        self._start: tuple[int, float] | None = None
        self._show_at = 0.0

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        line, bar = safe_line(line), self._bar
        with contextlib.suppress(*_OUTPUT_ERRORS):
            if bar is None:
                print(line, file=self._stream, flush=True)
            else:
                bar.write(line, file=self._stream)

    def iteration(self, step: int, total: int, latest: Mapping[str, float], alerts: Sequence[Alert] = ()) -> None:
        """Show that an iteration is complete.

        Args:
            step: the iteration.
            total: number of iterations of the run.
            latest: the newest values by full name, in source units.
            alerts: active anomaly alerts.
        """
        now = self._clock()
        self._total = total
        self._start = self._start or (step, now)
        with contextlib.suppress(*_OUTPUT_ERRORS):
            if self._is_terminal:
                self._update_bar(step, now, latest, alerts)
            elif now >= self._show_at and (latest or now >= self._start[1] + self._interval):
                self._show_at = now + self._interval
                self.say("; ".join([f"iteration {step}/{total}", *self._texts(step, now, latest)]))

    def epoch(self, epoch: int, step: int, latest: Mapping[str, float]) -> None:
        """Show that an epoch is complete; ``latest`` contains the newest values by full name, in source units."""
        self.close()
        validation = self._text(latest, "val")
        # Both with all errors do not fit into a line.
        train = self._text(latest, "train_epoch", errors=not validation)
        texts = [f"{name} {text}" for name, text in (("train", train), ("val", validation)) if text]
        self.say("; ".join([f"epoch {epoch}/{self._epochs}, iteration {step}", *texts]))

    def close(self) -> None:
        """Remove the bar from the screen."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(*_OUTPUT_ERRORS):
                bar.close()

    def _update_bar(self, step: int, now: float, latest: Mapping[str, float], alerts: Sequence[Alert]) -> None:
        length = max(1, self._total // max(1, self._epochs))
        if self._bar is None:
            # The line of the epoch replaces the bar.
            self._bar = tqdm(
                total=length,
                initial=(step - 1) % length,
                desc=f"epoch {-(-step // length)}/{self._epochs}",
                file=self._stream,
                bar_format=BAR,
                dynamic_ncols=True,
                leave=False,
            )
            self._show_at = now
        self._bar.update()
        if now >= self._show_at:
            self._show_at = now + BAR_INTERVAL
            shown = [f"! {safe_line(alert.title, MAX_ALERT_LENGTH)}" for alert in alerts]
            if len(shown) > 1:
                # Their texts, which have been printed, would take the place of the values.
                shown = [f"! {len(shown)} alerts"]
            self._bar.set_postfix_str("; ".join([*shown, *self._texts(step, now, latest)]))

    def _texts(self, step: int, now: float, latest: Mapping[str, float]) -> list[str]:
        """Return the speed, and the newest values; before the first window is complete, those of the first batch."""
        values = self._text(latest, "train_window")
        if not values and (first := self._text(latest, "train")):
            values = f"first batch: {first}"
        return [text for text in (self._speed(step, now), values) if text]

    def _speed(self, step: int, now: float) -> str:
        """Return the mean speed so far, validations and checkpoints included, and the time that the rest takes."""
        first, began = self._start or (step, now)
        if step <= first or now <= began:
            return ""
        rate = (step - first) / (now - began)
        return f"{rate:.3g} it/s, {tqdm.format_interval((self._total - step) / rate)} left"

    def _text(self, latest: Mapping[str, float], stream: str, *, errors: bool = True) -> str:
        shown = [f"loss {latest[f'{stream}/loss']:.3g}"] if f"{stream}/loss" in latest else []
        for abbr, (unit, factor) in self._units.items() if errors else ():
            value = latest.get(f"{stream}/{abbr}_rmse")
            if value is not None:
                shown.append(f"{abbr} {value * factor:.3g} {unit}")
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
