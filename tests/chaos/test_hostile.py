"""Commands on damaged and forged run folders: no crash, no wrong value, and always a report."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.telemetry_fakes import METRICS, Backend, HandMadeRun, MemorySink, row_seqs, row_steps
from telemetry import open_run
from telemetry.cli import main

damages = st.lists(
    st.tuples(
        st.sampled_from(["journal-0.jsonl", "journal-1.jsonl", "sinks/file.json"]),
        st.sampled_from(["cut", "flip", "garbage", "zeros", "again"]),
        st.integers(0, 10_000),
        st.binary(min_size=1, max_size=60),
    ),
    min_size=1,
    max_size=4,
)


def command(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attempts, the first of which has been delivered."""
    run = HandMadeRun(tmp_path_factory.mktemp("original") / "run")
    run.points(*range(1, 21))
    run.die()
    run.begin(resume_step=20)
    run.points(*range(21, 41))
    run.close()
    return run.folder


def spoil(path: Path, how: str, at: int, data: bytes) -> None:
    old = path.read_bytes() if path.exists() else b""
    at %= len(old) + 1
    new = {
        "cut": old[:at],
        "flip": old[:at] + bytes(b ^ data[0] or 1 for b in old[at : at + 1]) + old[at + 1 :],
        "garbage": old[:at] + data + old[at:],
        "zeros": old[:at] + bytes(len(old[at : at + 40])) + old[at + 40 :],
        "again": old + old[at:],
    }
    path.write_bytes(new[how])


@given(damages)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_run_is_delivered_without_a_crash_and_without_a_wrong_value(
    original: Path, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, str, int, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    run, backend = folder / "run", folder / "backend"
    shutil.copytree(original, run)
    for name, *how in damage:
        spoil(run / name, *how)
    words = ["--telemetry-sinks", "file", "-o", f"file.backend={backend}", "--linger", "0.1"]
    for _ in range(2):
        done = command("sync", run, *words)
        assert done.exit_code in {0, 1, 2}, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        looked = command("status", run)
        assert looked.exit_code in {0, 2}, looked.output
        assert looked.exception is None or isinstance(looked.exception, SystemExit)
    seqs, steps = row_seqs(backend), row_steps(backend)
    assert len(seqs) == len(set(seqs))
    points = [(seq, step) for seq, step in zip(seqs, steps, strict=True) if seq != 10**9 + 1]
    assert all(step == (seq if seq < 10**9 else seq - 10**9 + 19) for seq, step in points)
    # Complete lines removed from the end of a segment cannot be detected.
    if any(
        seq + 1 not in seqs and any(seq < n < 2 * 10**9 and n // 10**9 == seq // 10**9 for n in seqs) for seq in seqs
    ):
        assert "skipped in the journal" in done.output


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../b", ".", "..", "a\0b", "a\nb", "x" * 300])
def test_a_name_in_a_journal_does_not_lead_outside_the_run_folder(original: Path, tmp_path: Path, name: str) -> None:
    from telemetry.journal.codec import encode
    from telemetry.journal.segments import segment_path
    from telemetry.testing import run_record

    run = tmp_path / "deep" / "run"
    (run / "sinks").mkdir(parents=True)
    forged = run_record("run", sinks={name: {"backend": str(tmp_path / "backend")}})
    segment_path(run, 0).write_bytes(encode(forged))
    before = sorted(path for path in tmp_path.rglob("*"))
    assert command("sync", run).exit_code == 2
    assert command("status", run).exit_code in {0, 2}
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("what", ["journal-0.jsonl", "sinks/file.json", "alive.json"])
def test_a_link_out_of_the_run_folder_is_neither_read_nor_written_to(original: Path, tmp_path: Path, what: str) -> None:
    run, backend = tmp_path / "run", tmp_path / "backend"
    shutil.copytree(original, run)
    outside = tmp_path / "outside"
    outside.write_bytes((run / what).read_bytes() if (run / what).exists() else b"{}")
    (run / what).unlink(missing_ok=True)
    (run / what).symlink_to(outside)
    before = outside.read_bytes()
    done = command("sync", run, "--telemetry-sinks", "file", "-o", f"file.backend={backend}")
    assert done.exit_code == 0, done.output
    assert outside.read_bytes() == before
    steps = [step for seq, step in zip(row_seqs(backend), row_steps(backend), strict=True) if seq != 10**9 + 1]
    assert steps == list(range(21 if what.startswith("journal") else 1, 41))


@pytest.mark.parametrize("what", ["a folder", "nothing"])
def test_a_sinks_folder_that_is_a_link_is_rejected(original: Path, tmp_path: Path, what: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(original, run)
    shutil.rmtree(run / "sinks")
    (run / "sinks").symlink_to(outside)
    if what == "a folder":
        outside.mkdir()
    done = command("sync", run, "--telemetry-sinks", "file", "-o", f"file.backend={tmp_path / 'backend'}")
    assert done.exit_code == 2
    assert "sinks is a link, and writing there could change files outside the run folder; remove it" in done.output
    assert not outside.exists() or not list(outside.iterdir())
    assert not (tmp_path / "backend").exists()


PLACES = [
    "journal-1.jsonl",
    "journal-2.jsonl",
    "alive.json",
    "sinks/file.json",
    "sinks/file.rejected.jsonl",
    "sinks/file.log",
    "sinks",
]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["named pipe", "folder"])
@pytest.mark.parametrize("what", PLACES)
def test_a_named_pipe_or_a_folder_in_place_of_a_file_does_not_hang_a_command(
    original: Path, tmp_path: Path, what: str, make: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(original, run)
    if what == "sinks":
        shutil.rmtree(run / what, ignore_errors=True)
    (run / what).unlink(missing_ok=True)
    (run / what).parent.mkdir(exist_ok=True)
    make(run / what)
    results: list[Result] = []

    def use() -> None:
        results.append(command("status", run))
        results.append(command("list", tmp_path))
        results.append(command("export", run, "-o", tmp_path / "out.csv"))
        results.append(
            command(
                "sync", run, "--telemetry-sinks", "file", "-o", f"file.backend={tmp_path / 'backend'}", "--linger", "1"
            )
        )

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), f"still waiting after {len(results)} commands"
    assert [result.exit_code for result in results[:3]] == [0, 0, 0]
    assert not any("Traceback" in result.output for result in results)
    assert results[3].exit_code == (2 if what == "sinks" and make is os.mkfifo else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_colleague_can_read_a_run_for_the_group_and_nobody_else_can() -> None:
    user, group = 54321, 12345
    shared = Path(tempfile.mkdtemp())
    try:
        os.chown(shared, -1, group)
        shared.chmod(0o2755)
        exit_codes = {}
        for mode in ("private", "group"):
            run = shared / mode
            bus = open_run(run, metrics=METRICS, sinks=[MemorySink(Backend())], settings={"mode": mode, "every": 1})
            bus.publish("train", 1, {"loss": 1.0})
            bus.close()
            assert {path.stat().st_gid for path in (run, *run.rglob("*"))} == {group}
            before = sorted(run.rglob("*"))
            words = (["status", run], ["show", run], ["export", run], ["list", run])
            # Also imports everything, because the other user may have no access to this environment.
            assert [command(*each).exit_code for each in words] == [0, 0, 0, 0]
            for who in (group, group + 1):
                exit_codes[mode, who] = [_as_user(user, who, *each) for each in words]
            assert sorted(run.rglob("*")) == before
        assert exit_codes == {
            ("private", group): [2, 2, 2, 2],
            ("private", group + 1): [2, 2, 2, 2],
            ("group", group): [0, 0, 0, 0],
            ("group", group + 1): [2, 2, 2, 2],
        }
    finally:
        shutil.rmtree(shared)


def _as_user(user: int, group: int, *words: Any) -> int:
    """Run a command as another user, in a forked process that has everything imported; return its exit code."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            code = command(*words).exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
