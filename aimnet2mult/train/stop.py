"""The wish to stop: SIGTERM or Ctrl-C."""

import signal
from types import FrameType
from typing import Any, Self

__all__ = ["Stop"]


class Stop:
    """Remembers that SIGTERM or SIGINT came, while it is entered; a SIGINT after that raises KeyboardInterrupt.

    Whoever trains looks at ``requested`` between iterations. To be entered in the main thread.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.signal = number
