"""Looks at each point that is written, and says when a person should look too.

One alert for a cause, and one when it is over, however many metrics show it and for however long.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from statistics import median

import msgspec

from telemetry.alerts.settings import HALF, AlertSettings
from telemetry.metrics import Metric
from telemetry.records import Alert, Cause, Scalars, json_number, now_ms

SCALE = 1.4826
"""Standard deviations in a median absolute deviation of normally distributed values."""
LEAST, LEAST_EARLY, LEAST_EARLY_LOSS = 0.1, 0.5, 0.125
"""The least deviation, in medians: what hardly varies may vary a little more, and the first points tell little."""
EARLY = 10
"""Points up to which ``LEAST_EARLY`` holds; a loss falls then, so that of one a smaller rise is trouble."""
FAR, LASTING = 10.0, 5
"""A loss has diverged when it is so many times its usual above it for so many points in a row."""
STEADY = 5
"""Points in a row that have had a metric before its lack is told of."""
FALLS, RISES = 0.9, 1.25
"""Ratios of these medians from which on a metric is said to fall or to rise."""
SILENCE = 20.0
"""Usual intervals between points after which training is said to stand still."""


class Divergence(msgspec.Struct, frozen=True):
    """Why a training is to be held for diverged, and the iteration of the last point that was well."""

    reason: str
    after: int


class _Trouble(msgspec.Struct, frozen=True):
    """What is wrong with one metric."""

    what: str
    value: float | None = None
    baseline: float | None = None


class _Series:
    """The last points of one watched metric, and whether it is in a spike."""

    def __init__(self, settings: AlertSettings, least_early: float) -> None:
        self._settings = settings
        self._least_early = least_early
        self._values: deque[float] = deque(maxlen=settings.history)
        self.above = self.far = 0
        self.baseline = math.nan

    def add(self, value: float) -> None:
        """Take a finite value: into the history, unless it is above what the history lets expect.

        What is above it for as long as the history is becomes the usual.
        """
        if not self._values or value <= self._limit():
            self.above = self.far = 0
            self._values.append(value)
            return
        self.above += 1
        self.far = self.far + 1 if value > self.baseline + FAR * abs(self.baseline) else 0
        if self.above >= self._settings.history:
            self.above = self.far = 0
            self._values.clear()
            self._values.append(value)

    def is_spike(self) -> bool:
        """Say whether the last values are above what is usual."""
        return self.above >= self._settings.patience

    def trend(self) -> float:
        """Give the median of the last points over that of those before them; 1 as long as there are too few."""
        if len(self._values) < 2 * HALF or self.above:
            return 1.0
        newest = list(islice(reversed(self._values), 2 * HALF))
        before = median(newest[HALF:])
        return median(newest[:HALF]) / before if before > 0 else 1.0

    def _limit(self) -> float:
        self.baseline = median(self._values)
        deviation = SCALE * median(abs(value - self.baseline) for value in self._values)
        least = LEAST if len(self._values) >= EARLY else self._least_early
        expected = max(deviation, least * abs(self.baseline))
        # What was 0 throughout tells nothing of what to expect.
        return self.baseline + self._settings.factor * expected if expected else math.inf


class AnomalyDetector:
    """What has been seen of a run, and what is wrong now. Used by one thread.

    Args:
        metrics: by full name. All are looked at for values that are not finite; for the rest those with ``watch``.
        settings: when an alert is due.
        start: the iteration that training goes on after.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        settings: AlertSettings,
        *,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._series = {
            name: _Series(settings, LEAST_EARLY_LOSS if _is_loss(name) else LEAST_EARLY)
            for name, metric in metrics.items()
            if metric.watch
        }
        # How many points in a row have had a metric, by stream.
        self._streaks: dict[str, dict[str, int]] = {}
        self._troubles: dict[Cause, dict[str, _Trouble]] = {}
        self._since: dict[Cause, int] = {}
        self._seen = 0
        self._silent_until: dict[Cause, int] = {}
        self._intervals: deque[float] = deque(maxlen=settings.history)
        self._last: float | None = None
        self._step = 0
        self.last_healthy_step = start
        """The last iteration at which no watched metric was not finite, and no loss above its usual."""

    @property
    def active(self) -> tuple[Cause, ...]:
        """What is wrong now."""
        return tuple(self._since)

    @property
    def diverged(self) -> Divergence | None:
        """Whether the training is to be held for diverged: a watched metric is not finite, or a loss stays far off."""
        for name, trouble in self._not_finite():
            return Divergence(f"{name} {trouble.what}", self.last_healthy_step)
        for name, series in self._losses():
            if series.far >= LASTING:
                usual = self._shown(name, series.baseline)
                return Divergence(f"{name} stays far above its usual {usual}", self.last_healthy_step)
        return None

    def _not_finite(self) -> list[tuple[str, _Trouble]]:
        found = self._troubles.get("non-finite", {})
        return [(name, trouble) for name, trouble in found.items() if name in self._series]

    def _losses(self) -> list[tuple[str, _Series]]:
        return [(name, series) for name, series in self._series.items() if _is_loss(name)]

    def observe(self, record: Scalars, *, partial: bool = False) -> list[Alert]:
        """Look at a point that was written; give what is to be told because of it.

        ``partial``: it stands for less than those before it, as the last one of a run may.
        """
        self._note_time()
        self._step = record.step
        self._seen += 1
        values = dict(record.items())
        self._update("non-finite", values, _not_finite(values))
        watched = {name: value for name, value in values.items() if name in self._series}
        for name, value in watched.items():
            if math.isfinite(value):
                self._series[name].add(value)
        self._update("spike", watched, self._spikes(watched))
        if not partial:
            self._update("unlabelled", *self._missing(record.stream, watched))
        self._update("apart", watched, self._apart(watched))
        if watched and not self._not_finite() and not any(series.above for _, series in self._losses()):
            self.last_healthy_step = record.step
        return [*self._changes(), *self._moving()]

    def _missing(self, stream: str, watched: Mapping[str, float]) -> tuple[set[str], dict[str, _Trouble]]:
        """Give the metrics of a stream that were there before, and those of them that always were, and are not now."""
        streaks = self._streaks.setdefault(stream, {})
        known = self._troubles.get("unlabelled", {})
        gone = {
            n: _Trouble("") for n, streak in streaks.items() if n not in watched and (streak >= STEADY or n in known)
        }
        for name in streaks.keys() | watched.keys():
            streaks[name] = streaks.get(name, 0) + 1 if name in watched else 0
        return set(streaks), gone

    def check_silence(self) -> list[Alert]:
        """Look at the time that has passed since the last point; give what is to be told because of it."""
        if self._last is None or not self._intervals or "stalled" in self._since:
            return []
        silent, usual = self._clock() - self._last, max(self._intervals)
        if silent < max(self._settings.stalled, SILENCE * usual):
            return []
        self._troubles["stalled"] = {
            "": _Trouble(f"no new point for {silent:.0f} s, after at least one in {usual:.1f} s")
        }
        return self._changes()

    def _note_time(self) -> None:
        now = self._clock()
        if self._last is not None:
            # Also one that was told of: what has gone well, a long validation say, is usual.
            self._intervals.append(now - self._last)
        self._last = now

    def _moving(self) -> list[Alert]:
        if "stalled" not in self._since:
            return []
        self._troubles["stalled"] = {}
        return self._changes()

    def _update(self, cause: Cause, looked_at: Mapping[str, float] | set[str], found: Mapping[str, _Trouble]) -> None:
        """Take over what was found among the metrics that were looked at; the others stay as they were."""
        troubles = self._troubles.setdefault(cause, {})
        for name in looked_at:
            if name not in found:
                troubles.pop(name, None)
        troubles.update(found)

    def _spikes(self, watched: Mapping[str, float]) -> dict[str, _Trouble]:
        return {
            name: _Trouble("", value=value, baseline=self._series[name].baseline)
            for name, value in watched.items()
            if self._series[name].is_spike()
        }

    def _apart(self, watched: Mapping[str, float]) -> dict[str, _Trouble]:
        trends = {name: self._series[name].trend() for name in watched}
        for loss in filter(_is_loss, trends):
            apart = {
                name: _Trouble(f"{loss} {'falls' if trends[loss] <= FALLS else 'rises'}", value=watched[name])
                for name, trend in trends.items()
                if (trends[loss] <= FALLS and trend >= RISES) or (trends[loss] >= RISES and trend <= FALLS)
            }
            if apart:
                return apart
        return {}

    def _changes(self) -> list[Alert]:
        """Give an alert for each cause that has begun or is over.

        One that comes and goes is told of once in as many points as the history is; a value that is not finite, and
        silence, always.
        """
        alerts = []
        for cause, troubles in self._troubles.items():
            if troubles and cause not in self._since and self._seen >= self._silent_until.get(cause, 0):
                self._since[cause] = self._step
                alerts.append(self._begun(cause, troubles))
            elif not troubles and cause in self._since:
                alerts.append(self._over(cause, self._since.pop(cause)))
                if cause not in {"non-finite", "stalled"}:
                    self._silent_until[cause] = self._seen + self._settings.history
        return alerts

    def _begun(self, cause: Cause, troubles: Mapping[str, _Trouble]) -> Alert:
        name, trouble = next(iter(troubles.items()))
        others = ", ".join(islice((other for other in troubles if other != name), 20))
        return Alert(
            seq=0,
            time=now_ms(),
            step=self._step,
            title=self._title(cause, name, trouble)[:250],
            text=f"likewise {others}"[:4000] if others else "",
            level="error" if cause == "non-finite" else "warning",
            cause=cause,
            metric=name[:250],
            value=None if trouble.value is None else json_number(trouble.value),
            baseline=trouble.baseline,
            since=self._step,
        )

    def _over(self, cause: Cause, since: int) -> Alert:
        return Alert(
            seq=0,
            time=now_ms(),
            step=self._step,
            title=f"recovered: {_OVER[cause]}",
            level="info",
            cause=cause,
            since=since,
            recovered=True,
        )

    def _title(self, cause: Cause, name: str, trouble: _Trouble) -> str:
        if cause == "spike":
            value, usual = (self._shown(name, number or 0.0) for number in (trouble.value, trouble.baseline))
            return f"spike: {name} is {value}, its usual is {usual}"
        if cause == "unlabelled":
            return f"no labels: {name} was there before, and has no value now"
        if cause == "apart":
            return f"loss and error part ways: {trouble.what}, {name} does the opposite"
        return f"{name} {trouble.what}".strip()

    def _shown(self, name: str, value: float) -> str:
        unit = self._metrics[name].unit
        return f"{value:.4g}" if unit == "1" else f"{value:.4g} {unit}"


_OVER: Mapping[Cause, str] = {
    "non-finite": "all values are finite again",
    "spike": "no metric is far above its usual any more",
    "unlabelled": "all metrics have values again",
    "apart": "loss and errors go the same way again",
    "stalled": "points come again",
}


def _not_finite(values: Mapping[str, float]) -> dict[str, _Trouble]:
    return {
        name: _Trouble("is NaN" if math.isnan(value) else "is infinite", value=value)
        for name, value in _losses_first(values)
        if not math.isfinite(value)
    }


def _losses_first(values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    yield from sorted(values.items(), key=lambda item: not _is_loss(item[0]))


def _is_loss(name: str) -> bool:
    return name.rpartition("/")[2] == "loss"
