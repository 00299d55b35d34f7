"""The numbers of records, which add up at any time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from telemetry.recording.record_tally import RecordTally
from telemetry.run_folder.heartbeat import Counts


def test_nothing_is_counted_at_first() -> None:
    tally = RecordTally()
    assert (tally.counts(), tally.unwritten) == (Counts(), 0)


def test_each_record_is_written_lost_or_withdrawn() -> None:
    tally = RecordTally()
    tally.offer(10)
    tally.write(4)
    tally.lose(3, "queue full")
    tally.lose(1)
    tally.withdraw()
    tally.note_step(7)
    assert tally.unwritten == 1
    dropped = {"queue full": 3, "already recorded": 1}
    assert tally.counts() == Counts(offered=9, journaled=4, lost=4, step=7, dropped=dropped)


def test_values_left_out_of_records_are_counted_by_reason() -> None:
    tally = RecordTally()
    tally.drop("not a number")
    tally.drop("not a number", 2)
    tally.drop("undeclared metric", 3)
    assert tally.counts() == Counts(dropped={"not a number": 3, "undeclared metric": 3})


@given(st.lists(st.sampled_from(["offer", "write", "lose", "withdraw"]), max_size=50))
def test_the_numbers_add_up_after_any_sequence(calls: list[str]) -> None:
    tally = RecordTally()
    for call in calls:
        if call == "withdraw":
            tally.withdraw()
        else:
            getattr(tally, call)(2)
        counts = tally.counts()
        assert counts.offered == counts.journaled + counts.lost + tally.unwritten
