"""Check that a schedule is as long as the training."""

from collections.abc import Iterator, Sequence
from typing import Any

from ignite.handlers.param_scheduler import ConcatScheduler, CosineAnnealingScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, SequentialLR

from aimnet2mult.errors import Problems

__all__ = ["check_length"]


def check_length(scheduler: Any, steps: int, unit: str) -> list[str]:
    """Return a line about each cosine that ends before the training, because the learning rate then rises again.

    Args:
        scheduler: a scheduler of torch or ignite, which may contain others.
        steps: number of its steps in the whole training.
        unit: what it counts, for the messages: ``iterations``, ``epochs`` or ``validations``.

    Raises:
        ConfigError: a ``OneCycleLR`` ends before the training, after which it cannot step.
    """
    problems, lines = Problems(), []
    for part, own in _parts(scheduler, steps):
        name = type(part).__name__
        if isinstance(part, OneCycleLR) and own > part.total_steps:
            problems.add(
                f"scheduler: {name} ends after {part.total_steps:,} steps and cannot continue, but the training needs "
                f"{own:,} ({unit}); set its total_steps={own}, or trainer.epochs to fewer epochs"
            )
        argument, length = _cosine(part)
        # The rate after the last step is never used.
        if argument and own > length + 1:
            lines.append(
                f"warning: scheduler: the cosine of {name} ends after {length:,} of {own:,} {unit}, and the learning "
                f"rate then rises again; to prevent that, set its {argument}={own}"
            )
    problems.raise_any()
    return list(dict.fromkeys(lines))


def _cosine(scheduler: Any) -> tuple[str, int]:
    """Return the argument that sets the length of a cosine, and the length in steps; ``""`` for other schedules."""
    if isinstance(scheduler, CosineAnnealingLR):
        return "T_max", scheduler.T_max
    if isinstance(scheduler, CosineAnnealingScheduler):
        return "cycle_size", scheduler.cycle_size
    return "", 0


def _parts(scheduler: Any, steps: int) -> Iterator[tuple[Any, int]]:
    """Yield a scheduler and those that it contains, at any depth, each with the number of its steps."""
    yield scheduler, steps
    inner: Sequence[Any] = getattr(scheduler, "_schedulers", getattr(scheduler, "schedulers", ()))
    starts, ends = [0] * len(inner), [steps] * len(inner)
    if isinstance(scheduler, SequentialLR):
        starts[1:] = ends[:-1] = scheduler._milestones  # noqa: SLF001 - torch has no public name for them
    elif isinstance(scheduler, ConcatScheduler):
        starts[1:] = ends[:-1] = [sum(scheduler.durations[:count]) for count in range(1, len(inner))]
    for part, start, end in zip(inner, starts, ends, strict=True):
        yield from _parts(part, max(0, min(end, steps) - start))
    if hasattr(scheduler, "lr_scheduler"):
        yield from _parts(scheduler.lr_scheduler, steps)
