"""Commands of scripts that run in the process of the test, where torch is already imported."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

__all__ = ["run_module", "run_with_commands"]

Command = Callable[[list[str]], int]

STUB = r"""#!/bin/sh
printf '%s\0' "${{0##*/}}" "$@" > '{requests}'
read code < '{answers}'
exit "$code"
"""


def run_module(words: Sequence[str]) -> int:
    """Run a module like ``python -m MODULE ARGUMENTS``, and return its exit code."""
    flag, module, *arguments = words
    assert flag == "-m"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, module, raising=False)
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def run_with_commands(program: Sequence[str], folder: Path, commands: Mapping[str, Command]) -> int:
    """Run a program in a folder, with commands that run here, one after the other; return its exit code.

    Args:
        program: The program and its arguments.
        folder: The working directory of the program, and of the commands.
        commands: Function of the arguments that returns the exit code, by name of the command.
    """
    requests, answers = folder / "requests", folder / "answers"
    stubs = folder / "stubs"
    stubs.mkdir()
    for pipe in (requests, answers):
        os.mkfifo(pipe)
    for name in commands:
        (stubs / name).write_text(STUB.format(requests=requests, answers=answers))
        (stubs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(program, cwd=folder, env=environment) as process, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # An empty request tells that the program has ended.
        threading.Thread(target=lambda: (process.wait(), requests.write_bytes(b""))).start()
        while request := requests.read_bytes():
            name, *words = request.decode().split("\0")[:-1]
            answers.write_text(f"{commands[name](words)}\n")
    return process.returncode
