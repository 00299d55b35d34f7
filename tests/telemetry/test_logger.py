"""Messages of loggers reach the user in the form of the other lines of the commands."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from telemetry.logger import log, passing_messages


def test_messages_are_passed_with_a_prefix_that_depends_on_their_level() -> None:
    lines: list[str] = []
    with passing_messages(lines.append, "telemetry", "another"):
        log.info("mlflow: reached again")
        log.warning("iteration %d: train/loss is infinite", 7)
        logging.getLogger("another.module").error("a\nb")
        log.debug("a detail")
        logging.getLogger("third").warning("of another package")
    log.warning("later")
    assert lines == ["mlflow: reached again", "warning: iteration 7: train/loss is infinite", "error: a", "b"]


def test_the_loggers_are_afterwards_as_before() -> None:
    before = (list(log.handlers), log.level)
    with pytest.raises(KeyError), passing_messages(print, "telemetry"):
        raise KeyError
    assert (log.handlers, log.level) == before


def test_without_handlers_the_commands_print_the_same_prefix() -> None:
    script = "import logging; from telemetry.terminal import protect_terminal; protect_terminal()\n"
    script += "logging.getLogger('telemetry').warning('iteration 7: spike'); logging.getLogger('x').error('bad')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: iteration 7: spike\nerror: bad\n"
