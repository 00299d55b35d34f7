"""How a training ended. Does not import torch."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    It is "not finite" if too many steps were skipped, or the final weights are not finite, and "not saved" if there is
    no checkpoint of the last iteration.
    """

    kind: Literal["finished", "preempted", "diverged", "not finite", "not saved"]
    reason: str = ""
    """What is wrong, for "not finite" and "not saved"."""
