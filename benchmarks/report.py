"""Generate ``docs/explanation/performance.md`` and its figure from the results."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "explanation" / "performance.md"
FIGURE = Path("images") / "performance.png"
RESULTS = HERE / "results.json"

Row = dict[str, Any]

BUSY_P99 = 100.0
"""Minimum p99 of the time between steps of the bare loop, in µs, at which the page warns that the machine was busy."""
BUSY_WARNING = """\
**The machine was busy**: the bare loop does nothing between steps, yet the 99th percentile of that time is {p99} µs.
Times of that magnitude, and ratios of whole steps, are meaningless.
"""
ABOUT_FIGURE = """\
The figure answers a question per panel; its axes are logarithmic unless they begin at zero.

* **What does an iteration cost?** The mean over all iterations, due or not. This package counts the errors of every
  batch, so it costs the same at each iteration; most other loggers only look at the batches of due points.
* **What does a due point cost?** The time that training stands still to publish a point. This package hands it to
  another thread, whatever the state of the backends; other loggers wait for files or servers.
* **How much longer is a run?** The duration of all steps, including what other threads and processes take from them.
  The steps are tiny, to make the overhead measurable; the targets include steps of 10 ms.
* **How do costs grow?** With the size of a batch, with labels and fidelities, with the number of sinks, and with the
  length of a run.
"""
ABOUT_TARGETS = """\
A step of 10 ms is a fixed amount of work; its duration varies. Each block with three sinks is compared with two blocks
without sinks that run before or after it, and these two with each other, which shows what is chance. The error sums and
the plain torch code compute the same quantities: squares and counts of 4 labels for 2 fidelities, with masks, padding
and NaN, for batches of 64 structures of 20 atoms; the growth is measured with the same labels.

The memory of the trainer is counted from what training needs without telemetry: torch, ignite, h5py, yaml and an
initialized Warp. It includes the error sums with their kernel, and pint for the units.

The MLflow server runs on this machine, but only on idle cores (`SCHED_IDLE`), like the delivery processes, and without
its job runners, as if it were on another machine. It needs 10 ms of CPU time per point, which would otherwise be taken
from the training when that uses all cores.
"""
ABOUT_LOOPS = """\
All variants run the same small torch step, with batches of 64 structures of 20 atoms, on one core; there are {points}
due points, one every 200 iterations. Each variant runs in a separate process; the processes run blocks of steps in
turn, in a different order each round. Times are from the end of a step to the start of the next, in µs, minus those of
the bare loop (for Lightning with log_dict, minus those of the Lightning trainer). "÷ bare" is the duration of a whole
block relative to the bare loop.

This package accumulates the errors of every batch per fidelity, and publishes 9 values of the batch and 16 of the
window at a due point. The others compute 4 RMSEs of the batch and log them with the loss, at due points unless stated
otherwise.
"""
ABOUT_DUE_POINTS = """\
As above, but with {points} due points, one every {every} iterations: the 99th percentile of a few points is close to
their maximum, which only tells how busy the machine was. Iterations that are not due show how much of the tail has
other causes.
"""
HOW_TO_REPRODUCE = """\
```
make bench                # about 15 minutes on an otherwise idle machine
make bench BENCH_N=0.1    # a rough run, a few minutes
```

This installs the other loggers (extra `bench`), measures, and writes `benchmarks/results.json`, this page and its
figure; with `BENCH_OUT=FOLDER`, into that folder. On a busy machine, compare ratios and medians: the p99 of {points}
points is close to their maximum.
"""


def write_page(results: Row, folder: Path | None = None) -> None:
    """Write the page and its figure into a folder, by default ``docs/explanation``."""
    page = PAGE if folder is None else folder / PAGE.name
    page.write_text(render(results), encoding="utf-8")
    from figure import draw

    path = page.parent / FIGURE
    path.parent.mkdir(exist_ok=True)
    draw(results, path)


def render(results: Row) -> str:
    """Return the text of the page."""
    return "\n".join(
        [
            *_head(results),
            *_targets(results["targets"]),
            *_loops(results["loops"], results["unreachable"]),
            # Results from before this measurement existed do not have it.
            *(_due_points(results["due_points"]) if "due_points" in results else ()),
            *_micro(results["micro"]),
            *_scaling(results["micro"]),
            *_reproduction(results),
        ]
    )


def _head(results: Row) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    (bare,) = (row for row in results["loops"] if row["name"] == "bare")
    return [
        "# Performance",
        "",
        "Generated by `make bench` from `benchmarks/results.json`; do not edit.",
        "",
        _wrap(
            f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
            f"Python {machine['python']}; load average before the run: {machine['load']}. {versions}."
        ),
        f"The run took {results['minutes']:g} minutes with `BENCH_N={results['factor']:g}`.",
        "",
        *([BUSY_WARNING.format(p99=_us(bare["due_p99_us"]))] if bare["due_p99_us"] >= BUSY_P99 else []),
        f"![Cost of an iteration, of a due point and of a run, and how costs grow]({FIGURE.as_posix()})",
        "",
        ABOUT_FIGURE,
    ]


def _wrap(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _targets(targets: Sequence[Row]) -> list[str]:
    missed = sum(not row["met"] for row in targets)
    lines = ["## Targets", ""]
    lines += [f"{len(targets) - missed} of {len(targets)} targets are met.", ""]
    lines += _table(
        "quantity | target | measured | result",
        [(row["quantity"], row["target"], row["measured"], _verdict(row)) for row in targets],
    )
    lines += [ABOUT_TARGETS]
    return lines


def _verdict(row: Row) -> str:
    return "met" if row["met"] else "**missed**"


def _loops(rows: Sequence[Row], unreachable: Sequence[Row]) -> list[str]:
    lines = ["## Overhead in a training loop", "", ABOUT_LOOPS.format(points=rows[0]["points"])]
    cells = [
        (
            row["title"],
            _us(row["each_us"]),
            _us(row["idle_p50_us"]),
            _us(row["due_p50_us"]),
            _us(row["due_p99_us"]),
            f"{row['ratio']:.2f}",
            _read_back(row),
        )
        for row in rows
    ]
    lines += _table("variant | each iteration | not due, p50 | due, p50 | due, p99 | ÷ bare | points read back", cells)
    lines += [_wrap(f"Timings of a variant that loses points are invalid. {_blocking(unreachable)}"), ""]
    return lines


def _due_points(rows: Sequence[Row]) -> list[str]:
    bare, *others = rows
    about = ABOUT_DUE_POINTS.format(points=bare["points"], every=bare["every"])
    cells = [
        (
            row["title"],
            *(_us(row[key]) for key in ("idle_p50_us", "idle_p99_us", "due_p50_us", "due_p99_us", "due_max_us")),
        )
        for row in others
    ]
    head = "variant | not due, p50 | not due, p99 | due, p50 | due, p99 | due, maximum"
    return ["## Due points", "", about, *_table(head, cells)]


def _us(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits


def _read_back(row: Row) -> str:
    if not row["read_back"]:
        return ""
    lost = {name: row["points"] - count for name, count in row["read_back"].items() if count != row["points"]}
    return ", ".join(f"**{name}: {number} lost**" for name, number in lost.items()) or "all"


def _blocking(unreachable: Sequence[Row]) -> str:
    cases = [
        f"with a server that {row['server']}, for "
        + (f"{row['seconds']:.1f} s" if row["seconds"] else f"more than {row['timeout']:g} s (aborted)")
        for row in unreachable
    ]
    return f"A single `mlflow.log_metrics` call blocks training: {'; '.join(cases)}."


def _micro(rows: Sequence[Row]) -> list[str]:
    lines = ["## Components", ""]
    cells = [
        (row["group"], row["name"], f"{row['median_us']:,.2f}", f"{row['p99_us']:,.2f}")
        for row in sorted(rows, key=lambda row: row["group"])
        if row["size"] is None
    ]
    return lines + _table("group | operation | median, µs | p99, µs", cells)


def _scaling(rows: Sequence[Row]) -> list[str]:
    lines = ["## Scaling", ""]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["size"] is not None:
            groups.setdefault(row["group"], []).append(row)
    cells = [
        (group, ", ".join(f"{r['size']:,}: {_us(r['median_us'])}" for r in sorted(found, key=lambda r: r["size"])))
        for group, found in sorted(groups.items())
    ]
    lines += _table("operation | size: median in µs", cells)
    return lines


def _reproduction(results: Row) -> list[str]:
    return ["## Reproducing the figures", "", HOW_TO_REPRODUCE.format(points=results["loops"][0]["points"])]


def _table(head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    columns = head.split("|")
    lines = [f"| {' | '.join(column.strip() for column in columns)} |", "|" + "---|" * len(columns)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


if __name__ == "__main__":
    sys.path[:0] = [str(HERE)]
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
