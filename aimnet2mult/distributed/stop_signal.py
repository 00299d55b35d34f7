"""The wish to stop: SIGTERM, Ctrl-C, or a terminal that is closed."""

import signal
from types import FrameType
from typing import Any, Self

__all__ = ["StopSignal"]


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGHUP came, while it is entered; a SIGINT after that raises KeyboardInterrupt.

    Whoever trains looks at ``requested`` between iterations. To be entered in the main thread.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        # nohup has SIGHUP ignored, a shell SIGINT in the background; so it stays.
        heeded = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.signal = number
