"""``docs/explanation/performance.md``, written from the results of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "explanation" / "performance.md"
PICTURE = Path("images") / "performance.png"
RESULTS = HERE / "results.json"

Row = dict[str, Any]

BUSY_P99 = 100.0
"""µs between two steps of the bare loop from which on the page says that the machine had other work."""
BUSY = """\
**The machine had other work to do**: between two steps of the bare loop, which does nothing there, {p99} µs passed at
the 99th percentile. Times near that, and ratios of whole steps, say nothing.
"""
ABOUT_TARGETS = """\
A step of 10 ms is a fixed amount of work, not of time. The error sums hold what the plain torch beside them holds:
squares and counts of 4 labels for 2 fidelities, with masks, padding and NaN, batches of 64 structures of 20 atoms.
"""
ABOUT_LOOPS = """\
The same small step of torch in each variant, batches of 64 structures of 20 atoms, on one core; {points} due points,
one every 200 iterations. Each variant runs in a process of its own; they take turns, in blocks, in another order each
round. Times are in µs between the end of a step and the beginning of the next, less those of the bare loop (of
Lightning's trainer, for its log_dict). The last ratio is the time of a whole block to one of the bare loop.

This package adds up the errors of every batch, for each fidelity, and publishes 9 values of the batch and 16 of the
window at a due point. The others compute 4 RMSEs of the batch and log them with the loss, at a due point unless they
say something else.
"""
AGAIN = """\
```
make bench                # a quarter of an hour, on a machine that does nothing else
make bench BENCH_N=0.1    # a few minutes, and rougher
```

It installs the peers (the extra `bench`), measures, and writes `benchmarks/results.json`, this page and its picture.
With `BENCH_OUT=FOLDER` it writes them there. On a machine that has other work, look at ratios and medians: a p99 of
{points} points is close to the largest of them.
"""


def write_page(results: Row, folder: Path | None = None) -> None:
    """Write the page and its picture: into a folder, by default into ``docs``."""
    page = PAGE if folder is None else folder / PAGE.name
    page.write_text(render(results), encoding="utf-8")
    from plot import draw

    picture = page.parent / PICTURE
    picture.parent.mkdir(exist_ok=True)
    draw(results, picture)


def render(results: Row) -> str:
    """Give the page's text."""
    return "\n".join(
        [
            *_head(results),
            *_targets(results["targets"]),
            *_loops(results["loops"], results["dead"]),
            *_micro(results["micro"]),
            *_growth(results["micro"]),
            *_again(results),
        ]
    )


def _head(results: Row) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    (bare,) = (row for row in results["loops"] if row["name"] == "bare")
    return [
        "# Performance",
        "",
        "This page is written by `make bench` from `benchmarks/results.json`; do not edit it.",
        "",
        (
            f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
            f"Python {machine['python']}; the load was {machine['load']} before. {versions}."
        ),
        f"It took {results['minutes']:g} minutes with `BENCH_N={results['factor']:g}`.",
        "",
        *([BUSY.format(p99=_us(bare["due_p99_us"]))] if bare["due_p99_us"] >= BUSY_P99 else []),
        f"![What each variant costs a training loop, and how costs grow]({PICTURE.as_posix()})",
        "",
    ]


def _targets(targets: Sequence[Row]) -> list[str]:
    missed = sum(not row["met"] for row in targets)
    lines = ["## Wanted and measured", ""]
    lines += [f"{len(targets) - missed} of {len(targets)} are met.", ""]
    lines += _table("what | wanted | measured |", [(r["what"], r["wanted"], r["measured"], _mark(r)) for r in targets])
    lines += [ABOUT_TARGETS]
    return lines


def _mark(row: Row) -> str:
    return "met" if row["met"] else "**missed**"


def _loops(rows: Sequence[Row], dead: Sequence[Row]) -> list[str]:
    lines = ["## A training loop", "", ABOUT_LOOPS.format(points=rows[0]["points"])]
    cells = [
        (
            row["title"],
            _us(row["each_us"]),
            _us(row["idle_p50_us"]),
            _us(row["due_p50_us"]),
            _us(row["due_p99_us"]),
            f"{row['ratio']:.2f}",
            _kept(row),
        )
        for row in rows
    ]
    lines += _table("variant | each iteration | not due, p50 | due, p50 | due, p99 | ÷ bare | points read back", cells)
    lines += [f"A figure beside points that are lost is no figure. {_dead(dead)}", ""]
    return lines


def _us(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits


def _kept(row: Row) -> str:
    if not row["kept"]:
        return ""
    lost = {name: row["points"] - kept for name, kept in row["kept"].items() if kept != row["points"]}
    return ", ".join(f"**{name}: {number} lost**" for name, number in lost.items()) or "all"


def _dead(dead: Sequence[Row]) -> str:
    told = [
        f"that {row['how']}: "
        + (f"{row['seconds']:.1f} s" if row["seconds"] else f"more than {row['patience']:g} s, given up")
        for row in dead
    ]
    return f"One `mlflow.log_metrics` stops training at a server {'; at one '.join(told)}."


def _micro(rows: Sequence[Row]) -> list[str]:
    lines = ["## Parts", ""]
    cells = [
        (row["group"], row["name"], f"{row['median_us']:,.2f}", f"{row['p99_us']:,.2f}")
        for row in sorted(rows, key=lambda row: row["group"])
        if row["size"] is None
    ]
    return lines + _table("of | what | median, µs | p99, µs", cells)


def _growth(rows: Sequence[Row]) -> list[str]:
    lines = ["## Growth", ""]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["size"] is not None:
            groups.setdefault(row["group"].removeprefix("growth: "), []).append(row)
    cells = [
        (group, ", ".join(f"{r['size']:,}: {_us(r['median_us'])}" for r in sorted(found, key=lambda r: r["size"])))
        for group, found in sorted(groups.items())
    ]
    lines += _table("cost, against | number: median in µs", cells)
    return lines


def _again(results: Row) -> list[str]:
    return ["## Run it again", "", AGAIN.format(points=results["loops"][0]["points"])]


def _table(head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    columns = head.split("|")
    lines = [f"| {' | '.join(column.strip() for column in columns)} |", "|" + "---|" * len(columns)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


if __name__ == "__main__":
    sys.path[:0] = [str(HERE)]
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
