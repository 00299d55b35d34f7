"""The records of a journal that sinks receive, as sequence numbers."""

from __future__ import annotations

from array import array

from telemetry.journal.stream_search import PassedScalars
from telemetry.records import Alert, AnyRecord, Resumed, Scalars

_NEVER_SUPERSEDED = -1


class DeliverableRecords:
    """Collect the sequence numbers of the valid records for sinks, using 16 bytes per record.

    Attributes:
        seqs: the sequence numbers, ascending.
        step: the last iteration that has a point; 0 if there is none.
    """

    def __init__(self) -> None:
        self.seqs = array("q")
        self.step = 0
        self._steps = array("q")

    def add(self, record: AnyRecord) -> None:
        """Append the next record of the journal, unless sinks do not receive it."""
        if isinstance(record, Scalars | Alert | Resumed):
            is_resume = isinstance(record, Resumed)
            self.step = record.step if is_resume else max(self.step, record.step)
            passed = record.passed if isinstance(record, PassedScalars) else 0
            self.seqs.extend(range(record.seq - passed, record.seq + 1))
            self._steps.extend([_NEVER_SUPERSEDED if is_resume else record.step] * (passed + 1))

    def drop_after(self, step: int) -> bool:
        """Remove the points and alerts that a resume at iteration ``step`` supersedes; return whether there are any.

        Points passed over count as points of the iteration of the last of them.
        """
        valid = [i for i, each in enumerate(self._steps) if each <= step]
        if len(valid) == len(self.seqs):
            return False
        self.seqs = array("q", [self.seqs[i] for i in valid])
        self._steps = array("q", [self._steps[i] for i in valid])
        return True
