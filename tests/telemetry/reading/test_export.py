"""Exporting the values of a journal."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from support.written_runs import WrittenRun
from telemetry.reading.export import Export


def test_memory_does_not_grow_with_the_journal(tmp_path: Path) -> None:
    def peak(name: str, points: int) -> int:
        run = WrittenRun(tmp_path / name)
        lines = []
        run.raw = lines.append  # type: ignore[method-assign]
        for step in range(points):
            run.points("train", step, {"loss": float(step)})
        del run.raw
        run.raw(b"".join(lines))
        lines.clear()
        tracemalloc.start()
        try:
            for _ in Export(run.folder).lines("csv"):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Long enough that the chunk of 1 MiB read at a time does not dominate.
    assert peak("long", 30_000) < 1.5 * peak("short", 10_000)
