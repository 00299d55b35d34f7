"""Numbers of offered, journaled and delivered records of one or more runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Numbers of records and kills of one or more runs."""

    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    offered: int = 0
    journaled: int = 0
    most_unwritten: int = 0
    delivered: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        """Add the numbers of another run."""
        self.lives += other.lives
        self.offered += other.offered
        self.journaled += other.journaled
        self.most_unwritten = max(self.most_unwritten, other.most_unwritten)
        for name in ("kills", "hits", "delivered", "lost", "doubled"):
            getattr(self, name).update(getattr(other, name))

    def __str__(self) -> str:
        """Return one line."""
        kills = ", ".join(f"{what} {n}" for what, n in sorted(self.kills.items()))
        backends = [
            f"{name}: {n} delivered, {self.lost[name]} lost, {self.doubled[name]} duplicated"
            + (f", {self.hits[name]} kills" if self.hits else "")
            for name, n in sorted(self.delivered.items())
        ]
        written = f"{self.offered} offered, {self.journaled} journaled"
        if self.kills:
            written += f" (up to {self.most_unwritten} lost in one life)"
        return "; ".join([written, *backends, *([f"{self.kills.total()} kills ({kills})"] if kills else [])])
