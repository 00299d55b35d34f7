"""A full, broken or hung disk, and a deleted run folder: training continues, and missing records are counted."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.chaos.backends import Recording
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually

pytestmark = pytest.mark.chaos

WAYS = [("disk", do) for do in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "hang")] + [("sync", "EIO"), ("sync", "hang")]
ENDLESS = 20_000
SLOW_EXIT = 40.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 512 KiB, if permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=512k", "none", place], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "-l", place], check=True)


def log_of(run: ChaosRun) -> str:
    return (run.home() / "trainer.log").read_text()


def warnings_of(run: ChaosRun) -> int:
    return len(re.findall("cannot write the journal in", log_of(run)))


def steps(run: ChaosRun) -> list[int]:
    return [record.step for record in run.records().values()]


def unwritten(receipt: str) -> tuple[int, int, int]:
    """Return the numbers of records offered, journaled and not written according to a receipt."""
    found = re.search(r"(\d+) records offered, (\d+) journaled in .*?(?:; (\d+) NOT WRITTEN)?\n", receipt)
    assert found, receipt
    return int(found[1]), int(found[2]), int(found[3] or 0)


def test_a_disk_that_fails_in_several_ways_loses_nothing(
    chaos_run: Callable[..., ChaosRun], tmp_path: Path, figures: Callable[[object], None]
) -> None:
    flags = [tmp_path / f"{point}-{do}" for point, do in WAYS]
    faults = [
        {"role": "trainer", "point": point, "when": "before", "do": do, "flag": str(flag)}
        for (point, do), flag in zip(WAYS, flags, strict=True)
    ]
    run = chaos_run(Recording(), pause=0.01)
    trainer = run.start(faults, points=ENDLESS)
    for flag, (_, do) in zip(flags, WAYS, strict=True):
        run.wait_for_new_point("file")
        before, written = warnings_of(run), len(run.records())
        flag.touch()
        if do == "hang":
            time.sleep(0.5)
            assert len(run.records()) <= written + 64
        else:
            eventually(lambda n=before: warnings_of(run) > n, PATIENCE)
        flag.unlink()
    run.wait_for_new_point("file")
    assert unwritten(run.stop(trainer))[2] == 0
    assert steps(run) == list(range(1, len(steps(run)) + 1))
    run.finish()
    run.check()
    assert run.figures.offered == run.figures.journaled
    # Each fault is logged once.
    assert warnings_of(run) == sum(do != "hang" for _, do in WAYS)
    figures(run.figures)


def test_a_full_disk_that_has_space_again_loses_nothing(
    chaos_run: Callable[..., ChaosRun], small_disk: Path, figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), pause=0.02, place=small_disk)
    trainer = run.start(points=ENDLESS)
    run.wait_for_new_point("file")
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    eventually(lambda: warnings_of(run), PATIENCE)
    (small_disk / "ballast").unlink()
    eventually(lambda: "works again" in log_of(run), PATIENCE)
    assert unwritten(run.stop(trainer))[2] == 0
    run.finish()
    run.check()
    assert run.figures.offered == run.figures.journaled
    figures(run.figures)


def test_a_disk_that_stays_full_loses_what_the_receipt_reports(
    chaos_run: Callable[..., ChaosRun], small_disk: Path, figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), place=small_disk, drain_timeout=5.0, linger=2.0)
    trainer = run.start(points=6000, stay=5.0)
    eventually(lambda: warnings_of(run), PATIENCE)
    began = time.monotonic()
    offered, journaled, missing = unwritten(run.stop(trainer, SLOW_EXIT))
    took = time.monotonic() - began
    assert missing == offered - journaled > 0
    assert journaled == len(run.records())
    assert steps(run) == list(range(1, journaled + 1))
    subprocess.run(["/bin/mount", "-o", "remount,size=4m", small_disk], check=True)
    run.finish()
    run.check()
    figures(f"{run.figures}; {missing} reported missing; the end took {took:.1f} s")


def test_a_hung_disk_delays_the_end_of_a_run_for_a_limited_time(
    chaos_run: Callable[..., ChaosRun], tmp_path: Path, figures: Callable[[object], None]
) -> None:
    flag = tmp_path / "hang"
    run = chaos_run(Recording(), pause=0.01, drain_timeout=2.0, linger=2.0)
    hang = {"role": "trainer", "point": "disk", "when": "before", "do": "hang", "flag": str(flag)}
    trainer = run.start([hang], points=ENDLESS)
    run.wait_for_new_point("file")
    flag.touch()
    time.sleep(0.3)
    began = time.monotonic()
    offered, journaled, missing = unwritten(run.stop(trainer, SLOW_EXIT))
    took = time.monotonic() - began
    assert missing == offered - journaled > 0
    flag.unlink()
    assert journaled <= len(run.records()) <= offered
    run.finish()
    run.check()
    figures(f"{run.figures}; {missing} reported missing; the end took {took:.1f} s")


def test_a_deleted_run_folder_loses_only_what_was_in_it(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), pause=0.005)
    trainer = run.start(points=ENDLESS)
    run.wait_for_new_point("file")
    aside = run.run.with_name("aside")
    run.run.rename(aside)
    shutil.rmtree(aside)
    eventually((run.run / "journal-1.jsonl").exists, PATIENCE)
    run.wait_for_new_point("file")
    out = run.stop(trainer)
    left = steps(run)
    assert left == list(range(left[0], left[-1] + 1))
    assert left[-1] == unwritten(out)[0]
    rows = [row.split() for row in (run.folder / "file" / "rows").read_text().splitlines()]
    shown = [int(row[1]) for row in rows]
    assert sorted(shown) == sorted(set(shown)), "no record is duplicated"
    assert set(left) <= set(shown)
    figures(f"{unwritten(out)[0]} offered, {len(left)} in the new folder, {len(shown)} delivered")
