"""Whether a process is alive, judged by its identity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from telemetry.run_folder.process_identity import ProcessIdentity, current_process


def test_the_current_process_is_alive() -> None:
    identity = current_process()
    assert identity.is_local()
    assert not identity.is_dead()
    assert str(os.getpid()) in str(identity)


def test_a_process_that_has_ended_is_dead_even_as_a_zombie() -> None:
    code = "from telemetry.run_folder.process_identity import current_process; import msgspec; "
    code += "print(msgspec.json.encode(current_process()).decode())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        identity = msgspec.json.decode(process.stdout.read(), type=ProcessIdentity)
        assert identity.pid == process.pid
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity.is_dead()
    assert identity.is_dead()


def test_a_reused_process_id_is_recognized_by_its_start_time() -> None:
    assert msgspec.structs.replace(current_process(), started="1").is_dead()


def test_a_process_of_another_namespace_or_boot_is_never_considered_dead_by_its_id() -> None:
    elsewhere = msgspec.structs.replace(current_process(), pid=2**22 + 1, kernel="another-boot/1")
    assert not elsewhere.is_local()
    assert not elsewhere.is_dead()
    unknown = msgspec.structs.replace(elsewhere, kernel="")
    assert not unknown.is_local()
    assert not unknown.is_dead()


def test_without_a_boot_id_no_process_is_considered_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    ended = msgspec.structs.replace(current_process(), started="1")
    assert not ended.is_local()
    assert not ended.is_dead()


def test_a_command_name_may_contain_parentheses_and_blanks(tmp_path: Path) -> None:
    script = tmp_path / "a) Z (b c"
    script.symlink_to(sys.executable)
    code = "from telemetry.run_folder.process_identity import current_process; import time; "
    code += "print(current_process().started, flush=True); input()"
    python = Path(sys.executable)
    with subprocess.Popen(
        [script, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHOME": sys.base_prefix, "_": str(python)},
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline().strip()
        assert started.isdigit()
        identity = msgspec.structs.replace(current_process(), pid=process.pid, started=started)
        assert not identity.is_dead()
        process.communicate("\n")


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_a_process_hidden_by_proc_is_never_considered_dead_by_its_id(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid, /proc denies access to the processes of other users, or does not list them at all."""
    read_text = Path.read_text

    def hide(path: Path, **options: str) -> str:
        if path.name == "stat":
            raise error
        return read_text(path, **options)

    def deny(*_: int) -> None:
        raise PermissionError

    other = msgspec.structs.replace(current_process(), pid=2**22 - 1)
    assert other.is_dead()
    monkeypatch.setattr(Path, "read_text", hide)
    monkeypatch.setattr(os, "kill", deny)
    assert not other.is_local()
    assert not other.is_dead()


@pytest.mark.parametrize("pid", [-1, 0, 2**40, 2**63 - 1])
def test_an_impossible_process_id_is_dead(pid: int) -> None:
    assert msgspec.structs.replace(current_process(), pid=pid).is_dead()
