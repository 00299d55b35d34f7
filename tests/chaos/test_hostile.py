"""Commands on damaged and forged run folders: no crash, no wrong value, and always a report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.telemetry_fakes import HandMadeRun, row_seqs, row_steps
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
