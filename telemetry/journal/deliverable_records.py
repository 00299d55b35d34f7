"""The records of a journal that sinks receive, as sequence numbers."""

from __future__ import annotations

from array import array

from telemetry.journal.stream_search import PassedScalars
from telemetry.records import Alert, AnyRecord, Media, Resumed, RunUpdate, Scalars

_DELIVERABLE = (Scalars, Alert, Media, Resumed, RunUpdate)
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
        if not isinstance(record, _DELIVERABLE):
            return
        if isinstance(record, PassedScalars):
            self.seqs.extend(range(record.seq - record.passed, record.seq))
            self._steps.extend([record.step] * record.passed)
        self.seqs.append(record.seq)
        if isinstance(record, Resumed | RunUpdate):
            self._steps.append(_NEVER_SUPERSEDED)
        else:
            self._steps.append(record.step)
        if isinstance(record, Resumed) or (not isinstance(record, RunUpdate) and record.step > self.step):
            self.step = record.step

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
