"""Run pytest in forked children of a process that has imported the slow packages, but nothing of the repository.

    python server.py REPOSITORY PACKAGE,...

Reads jobs and writes results as JSON lines: ``{"args": […], "log": FILE, "timeout": SECONDS}`` →
``{"code": EXIT CODE OR NULL, "seconds": …}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL = 0.02
"""Interval, in seconds, between two looks at a running child."""


def main() -> None:
    repository, packages = sys.argv[1], sys.argv[2].split(",")
    # Some packages print a banner on stdout, where the results are written.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in packages:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    # Processes that a test leaves behind become children of this process, which ends them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    print(json.dumps({"ready": True}), file=results, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(repository, json.loads(line))), file=results, flush=True)


def _run(repository: str, job: dict) -> dict:
    start = time.monotonic()
    child = os.fork()
    if not child:
        _run_pytest(repository, job)
    code = None
    while code is None and time.monotonic() - start < job["timeout"]:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(POLL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    _end_orphans()
    return {"code": code, "seconds": round(time.monotonic() - start, 2)}


def _run_pytest(repository: str, job: dict) -> None:
    """Run pytest and end the process."""
    code = 1
    try:
        os.setsid()
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        sys.stdin = os.fdopen(0, closefd=False)
        os.chdir(repository)
        sys.path.insert(0, repository)
        import pytest

        code = int(pytest.main(job["args"]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def _end_orphans() -> None:
    for _ in range(50):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        orphans = [int(word) for word in children.split()]
        if not orphans:
            return
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
        for orphan in orphans:
            os.waitpid(orphan, 0)


if __name__ == "__main__":
    main()
