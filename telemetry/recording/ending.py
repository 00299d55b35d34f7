"""Tell from exceptions how a run has ended."""

from __future__ import annotations

import sys

from telemetry.errors import format_error
from telemetry.records import Status


def status_after(error: BaseException | None) -> tuple[Status, str]:
    """Return the status and the reason of a run that ended with an exception, or without one."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished", ""
    return "failed", format_error(error)


class InterpreterExit:
    """Tell how a run ends that is still open when the interpreter exits."""

    def __init__(self) -> None:
        """Note the last exception so far: in a notebook, an earlier cell may have failed."""
        self._earlier = _last_uncaught()

    def status(self) -> tuple[Status, str]:
        """Return the status and the reason, at exit; ``sys.exit`` looks like the end of the program."""
        error = _last_uncaught()
        if error is None or error is self._earlier:
            return "finished", "the program ended without closing the run"
        return status_after(error)


def _last_uncaught() -> BaseException | None:
    # Python 3.11 has only ``last_value``.
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
