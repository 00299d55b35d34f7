"""One life of the trainer of a run, and how it ends."""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.chaos.faults import OFFERED, Counters
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually

GRACE = 1.5
"""Seconds within which a process must reach its fault point."""


@dataclass
class Life:
    """One life of the trainer: what kills it or its deliveries.

    Attributes:
        faults: the faults to inject (see ``faults.Faults``).
        wait: whether to arm the faults only when all sinks are delivering.
        after: seconds from then until ``target`` is killed; None if the faults kill.
        target: the processes to kill: trainer, group (the trainer's process group), delivery, core (wandb-core), or
            job (all of them).
    """

    faults: list[dict[str, Any]] = field(default_factory=list)
    wait: bool = False
    after: float | None = None
    target: str = "trainer"


def live(run: ChaosRun, life: Life, points: int = 4000) -> None:
    """Start or resume a run, and kill its trainer or deliveries."""
    trainer = run.start(life.faults, points=points, stay=PATIENCE)
    home = run.home()
    if life.wait:
        eventually(lambda: trainer.poll() is not None or run.all_deliver(home), PATIENCE)
    (home / "armed").touch()
    if life.after is not None:
        eventually(lambda: _offered(trainer, home) > 0, PATIENCE)
        time.sleep(life.after)
        run.kill_target(trainer, life.target)
    elif not _is_hit(run, trainer, home, life.faults, points):
        # It did not reach its fault point: kill it where it is.
        run.kill_target(trainer, life.target)
    with contextlib.suppress(subprocess.TimeoutExpired):
        # It may still be killing itself; count each kill once.
        trainer.wait(0.2)
    if trainer.poll() is None:
        # The next life starts with killed deliveries or with orphans.
        run.kill_target(trainer, run.random.choice(("job", "trainer")))
    trainer.communicate()
    run.count(home)


def _is_hit(
    run: ChaosRun, trainer: subprocess.Popen[str], home: Path, faults: list[dict[str, Any]], points: int
) -> bool:
    """Wait until the faults have happened, or can no longer happen."""
    wanted = sum(fault.get("times", 1) for fault in faults if fault["do"] in {"kill", "job"})
    eventually(lambda: _offered(trainer, home) >= points or len(run.kills(home)) >= wanted, PATIENCE)
    with contextlib.suppress(AssertionError):
        eventually(lambda: trainer.poll() is not None or len(run.kills(home)) >= wanted, GRACE)
    return trainer.poll() is not None or len(run.kills(home)) >= wanted


def _offered(trainer: subprocess.Popen[str], home: Path) -> float:
    return Counters(str(home / "counters"))[OFFERED] if trainer.poll() is None else math.inf
