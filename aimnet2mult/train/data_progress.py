"""Progress of the checks of data. Does not require tqdm, as the checks do not."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aimnet2mult.train.plan import echo

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["progress"]

INTERVAL = 30.0
"""Seconds between lines if the output is not a terminal."""
BAR = "{desc} |{bar:10}| {n_fmt}/{total_fmt} structures, {remaining} left"
BAR_DELAY = 1.0
"""Seconds until a bar appears: small files have none."""


@contextlib.contextmanager
def progress(
    path: Path, *, clock: Callable[[], float] = time.monotonic, delay: float = BAR_DELAY
) -> Iterator[Callable[[int, int], None]]:
    """Return a function that shows the number of structures read: in a bar on a terminal, otherwise in lines."""
    on_terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    shown = _Bar(path, delay) if on_terminal and find_spec("tqdm") else _Lines(path, clock)
    with contextlib.closing(shown):
        yield shown.show


class _Bar:
    """A bar that appears with the first structures: not while another process is waited for."""

    def __init__(self, path: Path, delay: float) -> None:
        self._name, self._delay = path.name, delay
        self._bar: tqdm[None] | None = None

    def show(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._name,
                initial=done,
                total=total,
                file=sys.stderr,
                leave=False,
                bar_format=BAR,
                unit_scale=True,
                dynamic_ncols=True,
                delay=self._delay,
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """A line every half minute."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._next_at = clock() + INTERVAL
        self._start: tuple[int, float] | None = None

    def show(self, done: int, total: int) -> None:
        now = self._clock()
        first, began = self._start = self._start or (done, now)
        if now >= self._next_at and done > first:
            self._next_at = now + INTERVAL
            left = timedelta(seconds=round((total - done) * (now - began) / (done - first)))
            echo(f"{self._path}: {done:,} of {total:,} structures ({done / total:.0%}), {left} left", err=True)

    def close(self) -> None:
        pass
