"""Simulated and recorded curves that say which alerts are right: the labeled set for the rates of alerts.

Each kind of curve draws its length, noise, shape and fault from a seed. Values of a simulated metric are a smooth curve
times noise, which is partly common to all metrics of a point, as batches are.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from telemetry.metrics import Metric
from telemetry.records import Cause, Scalars

WINDOW = 200
"""Iterations between points of the training stream."""
RECORDED = Path(__file__).parents[2] / "data" / "alert-curves"
FIDELITIES = ("", "gfn1/", "spgfn2/")
ERRORS = ("loss", "E_rmse", "F_rmse", "s_rmse")
ABSENT = -math.inf
"""Stands for a metric without a value."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """An alert that is right.

    Attributes:
        causes: its cause; any of them, if several describe the fault.
        first: the first iteration at which it is right.
        last: the last one; without an alert until then, it was missed.
        also: causes that are right, too, from ``first`` on, but not required.
    """

    causes: tuple[Cause, ...]
    first: int
    last: int
    also: tuple[Cause, ...] = ()


@dataclass(frozen=True)
class Labeled:
    """The points of a run and the alerts that are right; all others are false.

    Attributes:
        earlier: points of earlier attempts.
        pauses: by number of the training point, the seconds before it if they differ from 10.
    """

    points: list[Scalars]
    expected: tuple[Expected, ...] = ()
    earlier: list[Scalars] = field(default_factory=list)
    pauses: dict[int, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Metric]:
        """All metrics, declared as a trainer does."""
        names = {f"{point.stream}/{name}" for point in [*self.earlier, *self.points] for name in point.values}
        return {
            name: Metric(watch=not name.endswith("/lr"), better="higher" if name.endswith("_r2") else "lower")
            for name in names
        }


class Curves:
    """The values of all metrics at each point of the training stream, to which a fault can be added.

    Attributes:
        number: the number of points.
        train: values by metric; ``ABSENT`` where it is missing.
        chance: the source of randomness.
    """

    def __init__(self, chance: np.random.Generator, *, shapes: str = "all", least: int = 20, most: int = 2000) -> None:
        """Draw a healthy run of ``least`` to ``most`` points."""
        self.chance = chance
        self.number = round(math.exp(chance.uniform(math.log(least), math.log(most))))
        shape = _SHAPES[chance.choice(list(_SHAPES) if shapes == "all" else [shapes])]
        noise = _noise(chance)
        n, period = np.arange(self.number, dtype=float), int(chance.integers(30, 200))
        base = shape(n, chance, period)
        phase = n % period / period if shape is _restarts else np.zeros(self.number)
        self._rate = 1e-6 + 5e-4 * (1 + np.cos(np.pi * phase))
        common = noise(self.number) ** 0.5
        self.train = {
            fidelity + name: scale * base**power * common * noise(self.number) ** (1.0 if fidelity else 0.7)
            for fidelity in FIDELITIES
            for name, scale, power in zip(ERRORS, (1.0, 10.0, 20.0, 0.1), (1.0, 0.6, 0.4, 0.3), strict=True)
        }
        self._val_noise = min(0.1, 0.3 * float(np.std(np.log(common))))

    def labeled(self, *expected: Expected, resumed: bool = False, pauses: dict[int, float] | None = None) -> Labeled:
        """Return the points, with a validation after every tenth of them."""
        points = list(self._points())
        cut = len(points) // 2 if resumed else 0
        return Labeled(points[cut:], expected, points[:cut], pauses or {})

    def step(self, point: int) -> int:
        """Return the iteration of a point."""
        return (point + 1) * WINDOW

    def random_point(self, low: float = 0.3, high: float = 0.8) -> int:
        """Return a random point between two fractions of the run."""
        return int(self.chance.integers(round(low * self.number), round(high * self.number)))

    def _points(self) -> Iterator[Scalars]:
        for n in range(self.number):
            values = {name: float(curve[n]) for name, curve in self.train.items() if curve[n] != ABSENT}
            yield Scalars(seq=1, time=1, stream="train", step=self.step(n), values={"lr": float(self._rate[n])})
            yield Scalars(seq=1, time=1, stream="train_window", step=self.step(n), values=values)
            if n % 10 == 9:
                noise = np.exp(self._val_noise * self.chance.normal(size=len(ERRORS)))
                values = {
                    name: factor * float(np.sort(self.train[name][n - 4 : n + 1])[2])
                    for name, factor in zip(ERRORS, 0.9 * noise, strict=True)
                }
                values["E_r2"] = 1 - 1 / (2 + n / 10) + 0.01 * self.chance.normal()
                yield Scalars(seq=1, time=1, stream="val", step=self.step(n), values=values)


def _noise(chance: np.random.Generator) -> Callable[[int], Values]:
    """Return a source of noise: lognormal of 1 to 30 %, or Student's t distribution of 3 to 5 degrees of freedom."""
    width = chance.uniform(0.01, 0.3)
    freedom = chance.uniform(3, 5)
    if chance.random() < 0.7:
        return lambda number: np.exp(width * chance.normal(size=number))
    return lambda number: np.exp(0.5 * width * np.clip(chance.standard_t(freedom, size=number), -8, 8))


def _power_law(n: Values, chance: np.random.Generator, period: int) -> Values:
    return 3 * (1 + n) ** -chance.uniform(0.2, 0.7) + chance.uniform(0.01, 0.3)


def _exponential(n: Values, chance: np.random.Generator, period: int) -> Values:
    return 5 * np.exp(-n / chance.uniform(10, 300)) + chance.uniform(0.02, 0.5)


def _plateau(n: Values, chance: np.random.Generator, period: int) -> Values:
    return np.full_like(n, chance.uniform(0.1, 2))


def _transient(n: Values, chance: np.random.Generator, period: int) -> Values:
    return 10 ** chance.uniform(2, 6) * np.exp(-n / chance.uniform(0.5, 3)) + 2 / (1 + n / 20) + 0.2


def _warm_up(n: Values, chance: np.random.Generator, period: int) -> Values:
    peak = chance.uniform(3, 20)
    return 5 * np.minimum(1, 0.5 + 0.5 * n / peak) / (1 + np.maximum(0, n - peak) / 30) + 0.1


def _restarts(n: Values, chance: np.random.Generator, period: int) -> Values:
    """Rise by up to a factor of three at each restart of the learning rate, within two or three points."""
    height, phase = chance.uniform(0.3, 2.0), n % period
    rise = height * (1 + np.cos(np.pi * phase / period)) / 2 * np.minimum(1, (phase + 1) / 3)
    curve: Values = (3 / (1 + n / 20) + 0.2) * (1 + np.where(n < period, 0.0, rise))
    return curve


def _rate_drops(n: Values, chance: np.random.Generator, period: int) -> Values:
    return (1 / (1 + n / 30) + 0.2) * 0.4 ** (n // period)


def _fine_tuning(n: Values, chance: np.random.Generator, period: int) -> Values:
    return 0.3 * (chance.uniform(1.2, 2.4) - (1 - np.exp(-n / 30)) * 0.1) - 0.2 * np.exp(-n / 30)


_SHAPES: dict[str, Callable[[Values, np.random.Generator, int], Values]] = {
    "power law": _power_law,
    "exponential": _exponential,
    "plateau": _plateau,
    "transient": _transient,
    "warm-up": _warm_up,
    "restarts": _restarts,
    "rate drops": _rate_drops,
    "fine-tuning": _fine_tuning,
}


def healthy(chance: np.random.Generator) -> Labeled:
    """Return a healthy run of any shape and noise."""
    return Curves(chance).labeled()


def healthy_long(chance: np.random.Generator) -> Labeled:
    """Return a healthy run of 5,000 points."""
    return Curves(chance, least=5000, most=5000).labeled()


def warm_restarts(chance: np.random.Generator) -> Labeled:
    """Return a healthy run with restarts of the learning rate."""
    return Curves(chance, shapes="restarts", least=100).labeled()


def resumed(chance: np.random.Generator) -> Labeled:
    """Return the second half of a healthy run, whose first half was an earlier attempt."""
    return Curves(chance, least=40).labeled(resumed=True)


def plateau(chance: np.random.Generator) -> Labeled:
    """Return a healthy run that does not improve."""
    return Curves(chance, shapes="plateau").labeled()


def rare_fidelity(chance: np.random.Generator) -> Labeled:
    """Return a healthy run with a fidelity in 90 to 99 % of the windows."""
    curves = Curves(chance, least=100)
    absent = chance.random(curves.number) > chance.uniform(0.9, 0.99)
    for name in ERRORS:
        curves.train[f"spgfn2/{name}"][absent] = ABSENT
    return curves.labeled()


def lost_fidelity(chance: np.random.Generator) -> Labeled:
    """Return a run that loses a fidelity, which was in 90 to 100 % of the windows."""
    curves = Curves(chance, least=60)
    absent = chance.random(curves.number) > min(1.0, chance.uniform(0.9, 1.05))
    at = curves.random_point()
    absent[at - 1], absent[at:] = False, True
    for name in ERRORS:
        curves.train[f"spgfn2/{name}"][absent] = ABSENT
    return curves.labeled(Expected(("unlabelled",), curves.step(at), curves.step(at + 10)))


def not_finite(chance: np.random.Generator) -> Labeled:
    """Return a run with a NaN or infinite value at one point or for the rest of the run."""
    curves = Curves(chance)
    at = curves.random_point(0.0)
    last = at + 1 if chance.random() < 0.5 else curves.number
    name = str(chance.choice(["loss", "gfn1/E_rmse"]))
    curves.train[name][at:last] = chance.choice([math.nan, math.inf])
    return curves.labeled(Expected(("non-finite",), curves.step(at), curves.step(at)))


def _spike(chance: np.random.Generator, length: int | None) -> Labeled:
    curves = Curves(chance, least=60)
    at = curves.random_point()
    factor = math.exp(chance.uniform(math.log(5), math.log(50)))
    last = curves.number if length is None else at + length
    for name in ("loss", "gfn1/loss", "gfn1/E_rmse"):
        curves.train[name][at:last] *= factor
    within = at + 5 if length is None else last - 1
    also: tuple[Cause, ...] = ("diverging", "apart") if length is None else ()
    return curves.labeled(Expected(("spike",), curves.step(at), curves.step(within), also))


def spike_that_heals(chance: np.random.Generator) -> Labeled:
    """Return a run with one to three points that are 5 to 50 times too high."""
    return _spike(chance, int(chance.integers(1, 4)))


def spike_that_stays(chance: np.random.Generator) -> Labeled:
    """Return a run whose loss rises by a factor of 5 to 50 at one point, and stays there."""
    return _spike(chance, None)


def spike_after_resuming(chance: np.random.Generator) -> Labeled:
    """Return a resumed run whose loss rises by a factor of 12 to 50 in the second attempt, and stays there."""
    curves = Curves(chance, least=80)
    at = curves.random_point(0.65, 0.9)
    factor = math.exp(chance.uniform(math.log(12), math.log(50)))
    for name in ("loss", "gfn1/loss", "gfn1/E_rmse"):
        curves.train[name][at:] *= factor
    return curves.labeled(
        Expected(("spike", "diverging"), curves.step(at), curves.step(at + 12), ("spike", "diverging", "apart")),
        resumed=True,
    )


def slow_divergence(chance: np.random.Generator) -> Labeled:
    """Return a run whose loss and errors grow by 1 to 5 % per point, up to 20 to 100 times."""
    curves = Curves(chance, least=600, most=1200)
    at = curves.random_point(0.2, 0.35)
    growth, limit = chance.uniform(0.01, 0.05), chance.uniform(math.log(20), math.log(100))
    rise = np.exp(np.minimum(limit, np.maximum(0, np.arange(curves.number) - at) * math.log1p(growth)))
    for name in curves.train:
        base = curves.train[name].copy()
        curves.train[name][at:] = np.median(base[max(0, at - 10) : at + 1]) * base[at:] / _smooth(base)[at:]
        curves.train[name] *= rise
    found = at + math.ceil(math.log(14) / math.log1p(growth)) + 25
    return curves.labeled(
        Expected(("diverging",), curves.step(at), curves.step(found), ("spike", "apart")),
    )


def _smooth(values: Values) -> Values:
    padded = np.pad(np.log(values), 10, mode="edge")
    smooth: Values = np.exp(np.median(np.lib.stride_tricks.sliding_window_view(padded, 21), axis=1))
    return smooth


def too_large_rate(chance: np.random.Generator) -> Labeled:
    """Return a run whose loss rises by a factor of 20 to 1,000 at one of the points 2 to 5, and stays there."""
    curves = Curves(chance, shapes="power law", least=30)
    at = int(chance.integers(1, 5))
    factor = math.exp(chance.uniform(math.log(20), math.log(1000)))
    for name in curves.train:
        curves.train[name][at:] = curves.train[name][0] * factor
        curves.train[name][at:] *= np.exp(0.1 * chance.normal(size=curves.number - at))
    return curves.labeled(
        Expected(("spike", "diverging"), curves.step(at), curves.step(at + 5), ("spike", "diverging"))
    )


def rising_error(chance: np.random.Generator) -> Labeled:
    """Return a run in which one error triples to tenfolds within 50 to 300 points while the loss does not rise."""
    curves = Curves(chance, shapes="exponential", least=400)
    at, duration = curves.random_point(0.2, 0.35), int(chance.integers(50, min(300, curves.number // 2)))
    factor = math.exp(chance.uniform(math.log(3), math.log(10)))
    rise = factor ** np.clip((np.arange(curves.number) - at) / duration, 0, 1)
    base = curves.train["s_rmse"]
    base[at:] *= np.median(base[at - 5 : at + 1]) / _smooth(base)[at:]
    base *= rise
    return curves.labeled(Expected(("apart",), curves.step(at), curves.step(at + duration + 30), ("spike",)))


def slow_validation(chance: np.random.Generator) -> Labeled:
    """Return a healthy run with pauses of one to four minutes for validation."""
    curves = Curves(chance, least=40, most=300)
    return curves.labeled(pauses={n: float(chance.uniform(60, 240)) for n in range(10, curves.number, 10)})


def hanging_loader(chance: np.random.Generator) -> Labeled:
    """Return a run that hangs for an hour."""
    curves = Curves(chance, shapes="power law", least=40, most=300)
    at = int(chance.integers(5, 20))
    step = curves.step(at - 1)
    return curves.labeled(Expected(("stalled",), step, step), pauses={at: 3600.0})


def recorded(name: str) -> Labeled:
    """Return a recorded run with the alerts that are right (see tests/data/alert-curves/README.md)."""
    run = json.loads((RECORDED / f"{name}.json").read_text())
    points = [
        Scalars(seq=1, time=1, stream=stream, step=step, values=dict(zip(names, row, strict=True)))
        for stream, names in run["metrics"].items()
        for step, *row in run["points"][stream]
    ]
    return Labeled(sorted(points, key=lambda point: point.step), tuple(Expected(**e) for e in run["expected"]))


HEALTHY = (healthy, healthy_long, plateau, warm_restarts, resumed, rare_fidelity, slow_validation)
FAULTY = (
    not_finite,
    spike_that_heals,
    spike_that_stays,
    spike_after_resuming,
    too_large_rate,
    slow_divergence,
    rising_error,
    lost_fidelity,
    hanging_loader,
)


def draw(kind: Callable[[np.random.Generator], Labeled], seed: int) -> Labeled:
    """Return the curve of a kind with a seed."""
    return kind(np.random.default_rng([seed, zlib.crc32(kind.__name__.encode())]))
