"""The contract tests: a correct sink passes, and each violation is found and explained."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from support.contract_sinks import Contract, LinesSink
from support.telemetry_fakes import eventually
from telemetry import RunRecord
from telemetry.sink_api import Opened, hookimpl
from telemetry.testing import Point, SinkContract
from telemetry.testing.child import Child, Report

Failures = Callable[..., dict[str, str]]

CHECKS = [name for name, _ in inspect.getmembers(Contract, inspect.isfunction) if name.startswith("test_")]

POINTS = "test_each_point_is_shown_once_in_order_with_its_step_value_time_and_unit"
NAN = "test_nan_and_infinities_are_shown_unchanged"
NAMES = "test_unusual_names_are_shown_as_separate_curves"
LATE = "test_a_metric_declared_later_is_shown_with_its_unit"
KINDS = "test_records_of_unknown_kinds_are_ignored"
MANY = "test_ten_thousand_records_are_all_shown_in_order"
THREADS = "test_delivery_works_from_any_thread"
TWO_RUNS = "test_two_runs_in_one_process_stay_separate"
SAME_NAME = "test_two_runs_with_the_same_name_stay_separate"
ELSEWHERE = "test_a_different_destination_is_reported_and_filled_from_the_beginning"
CLOSED_TWICE = "test_closing_twice_has_no_further_effect_even_without_points"
CLOSED_GOES_ON = "test_a_closed_run_can_be_continued_whatever_its_status"
TOLD = "test_reported_and_durable_positions_match_what_was_written"
TWICE = "test_a_batch_delivered_twice_is_shown_once"
DROPPED = "test_a_new_instance_continues_where_a_dropped_one_stopped"
ACKNOWLEDGED = "test_a_kill_between_write_and_acknowledgment_neither_loses_nor_duplicates_records"
KILLED = "test_a_kill_at_any_moment_loses_no_durable_record"
REWOUND = "test_a_new_attempt_that_starts_earlier_is_shown_as_declared"
MEDIA = "test_media_are_shown_once_and_other_kinds_ignored"
MEDIA_KILLED = "test_media_survive_a_kill_between_write_and_acknowledgment"
MEDIA_REWOUND = "test_media_of_a_new_attempt_that_starts_earlier_are_shown_as_declared"
MEDIA_LOST = "test_media_without_their_content_are_rejected_alone"
FULL = "test_a_full_disk_and_exhausted_file_descriptors_are_reported_and_lose_nothing"
OUTAGE = "test_an_outage_is_reported_and_loses_nothing"
OPTIONS = "test_invalid_options_are_rejected_by_name"
IMPORTS = "test_the_sdk_is_imported_only_when_the_sink_is_opened"


IN_OTHER_PROCESSES = {ACKNOWLEDGED, KILLED, MEDIA_KILLED, FULL, IMPORTS}
"""These take longer, and run only for sinks in which they should find the violation."""

# For each sink that violates the contract in one way: the checks that must find it, and a part of their messages.
ONE_CHECK_FINDS = {
    "RoundsSteps": (POINTS, "has step 0 instead of 8589934592"),
    "IgnoresUpdates": (LATE, "has unit '1' instead of 'K'"),
    "SwallowsNaN": (NAN, "A diverging run has such values"),
    "CleansNames": (NAMES, "'val/fid 1/E_rmse' has 0 points instead of 2"),
    "Samples": (MANY, "Do not sample or drop records"),
    "NeedsTheMainThread": (THREADS, "signal only works in main thread"),
    "NamesNoPlace": (ELSEWHERE, "destination is 'lines' for two different places"),
    "EndsForGood": (CLOSED_GOES_ON, "this run has failed"),
    "DeletesFailedRuns": (CLOSED_GOES_ON, "The run was just closed as failed. Closing keeps its points"),
    "TrustsContents": (MEDIA_LOST, "read contents with read_blob or verified_blob"),
    "KeepsSupersededMedia": (MEDIA_REWOUND, "supersedes earlier media beyond iteration 10"),
    "NeverDurable": (TOLD, "declare durable_on_write = False"),
    "IgnoresResumes": (REWOUND, "rewinds is 'replaced'"),
    "KeepsTheTorn": (FULL, "may have written part of its batch"),
    "TakesAnything": (OPTIONS, "option 'more' accepts a value of any type"),
    "ImportsWhenMade": (IMPORTS, "importing or constructing ImportsWhenMade imports click"),
    "NeedsMore": (IMPORTS, "sink_open succeeded without click"),
    "LetsImportErrorsPass": (IMPORTS, "sink_open raised ModuleNotFoundError"),
}
SEVERAL_FIND = {
    "Misnames": {MEDIA: "media contains ['picture']; the kinds are text, table, image"},
    "ForgetsMedia": {MEDIA_KILLED: "is not shown. After a kill, records are delivered again"},
    "KnowsScalarsOnly": {KINDS: "ignore records that are not Scalars", MEDIA: "ignore the kinds"},
    "Doubles": {TWICE: "skip records up to it", MEDIA: "Media must not disturb the curves"},
    "CutsContents": {MEDIA: "has the content '# Notes 11' instead of", MEDIA_LOST: "instead of"},
    "LosesTheLast": {POINTS: "Write each record of a batch, in order", TOLD: "sink_open returned last_seq=11"},
    "SwapsTwo": {POINTS: "has step 200 instead of 190"},
    "RoundsTimes": {POINTS: "has time 1700000001000 instead of 1700000001001"},
    "ForgetsUnits": {POINTS: "has unit '1' instead of 'kcal/mol'"},
    "ClosesBadly": {CLOSED_TWICE: "'run/closed' is shown but was never written"},
    "CannotTell": {TOLD: "declare tells_last_seq = False", DROPPED: "last_seq is None"},
    "IsGlobal": {TWO_RUNS: "not in the module", SAME_NAME: "distinguish them by run.started, too"},
    "KnowsRunsByName": {SAME_NAME: "distinguish them by run.started, too"},
    "SaysTooMuch": {
        TOLD: "the records in between would never be delivered",
        ACKNOWLEDGED: "sink_open returned last_seq=21, but the last record written is 20",
    },
    "Buffers": {
        DROPPED: "sink_open returned last_seq=0, but record 10 is present",
        ACKNOWLEDGED: "sink_write returned as durable 20, but after a kill 'train/loss' has 0 points",
        KILLED: "Report only records that have reached the backend",
    },
    "StaysWhereItStarted": {
        ELSEWHERE: "make it absolute, because `telemetry sync` can be started anywhere",
        ACKNOWLEDGED: "must not depend on the working directory",
    },
    "RaisesItsOwn": {FULL: "sink_write raised OSError", OUTAGE: "sink_write raised IsADirectoryError"},
    "GivesUp": {
        FULL: "Raise SinkUnavailable for temporary faults; SinkRejected ends delivery",
        OUTAGE: "those for which sink_write raises SinkRejected are set aside",
    },
    "Swallows": {
        FULL: "sink_write returned as durable 20, but after a kill 'train/loss' has 7 points instead of 14",
        OUTAGE: "Pass no error over",
    },
    "ClaimsLater": {FULL: "Pass no error over", OUTAGE: "sends only the records after the last one"},
    "SwallowsLater": {FULL: "Pass no error over", OUTAGE: "Pass no error over"},
    "ReportsAndSwallows": {FULL: "Pass no error over"},
    "CountsInTexts": {POINTS: "sink_open returned an invalid Opened: Expected `int | null`, got `str`"},
    "ReturnsItsRecords": {POINTS: "it must return the highest durable sequence number, or None"},
    "ReturnsNothing": {POINTS: "sink_open returned None; it must return telemetry.sink_api.Opened"},
}


@pytest.fixture(name="failures")
def _failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failures:
    """Return a function that runs checks on a sink and returns the messages of those that fail."""

    def failures(sink: str, checks: Iterable[str], contract: type[Contract] = Contract) -> dict[str, str]:
        monkeypatch.setenv("CONTRACT_SINK", sink)
        out = {}
        for name in checks:
            (tmp_path / name).mkdir()
            try:
                getattr(contract(), name)(tmp_path / name)
            except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - each is a failure of the check
                out[name] = str(error)
        return out

    return failures


def test_all_checks_are_listed_here() -> None:
    here = {value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    assert set(CHECKS) == here


def test_each_check_finds_a_violation() -> None:
    found = {check for check, _ in ONE_CHECK_FINDS.values()} | {c for found in SEVERAL_FIND.values() for c in found}
    assert found == set(CHECKS)


@pytest.mark.parametrize("sink", ["LinesSink", "MediaSink"])
def test_a_correct_sink_passes(sink: str, failures: Failures) -> None:
    assert failures(sink, CHECKS) == {}


@pytest.mark.parametrize("sink", ONE_CHECK_FINDS)
def test_a_single_violation_is_found_by_the_check_for_it_only(sink: str, failures: Failures) -> None:
    check, words = ONE_CHECK_FINDS[sink]
    found = failures(sink, set(CHECKS) - (IN_OTHER_PROCESSES - {check}))
    assert set(found) == {check}
    assert words in found[check]


@pytest.mark.parametrize("sink", SEVERAL_FIND)
def test_a_violation_that_affects_several_checks_is_explained_by_each(sink: str, failures: Failures) -> None:
    expected = SEVERAL_FIND[sink]
    found = failures(sink, expected)
    assert {check: words for check, words in expected.items() if words not in found.get(check, "")} == {}


def test_read_back_receives_the_run_that_the_sink_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnAServer(Contract):
        def read_back(self, run: RunRecord) -> list[Point]:
            asked.append((run.run_id, run.started))
            return []

    asked: list[tuple[str, int]] = []
    opened: list[tuple[str, int]] = []

    class OpeningSink(LinesSink):
        @hookimpl
        def sink_open(self, run: RunRecord, folder: Path) -> Opened:
            opened.append((run.run_id, run.started))
            return super().sink_open(run, folder)

    kit = OnAServer()
    monkeypatch.setattr(kit, "make_sink", lambda folder: OpeningSink(OpeningSink.Options()))
    for folder in (tmp_path / "one" / "run", tmp_path / "two" / "run"):
        kit.open_sink(folder)
        assert kit.shown(folder) == []
    assert asked == opened
    assert [name for name, _ in asked] == ["run", "run"]
    assert len(set(asked)) == 2


class Weaker(Contract):
    """The declarations of a weaker backend."""

    tells_last_seq = False
    durable_on_write = False
    exactly_once = False


@pytest.mark.parametrize("sink", ["CannotTell", "NeverDurable", "CannotTellAndDoubles"])
def test_a_declared_weakness_is_not_a_violation(sink: str, failures: Failures) -> None:
    assert failures(sink, CHECKS, Weaker) == {}


def test_without_outages_their_check_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutOutages(Contract):
        outages = SinkContract.outages

    monkeypatch.setenv("CONTRACT_SINK", "LinesSink")
    with pytest.raises(pytest.skip.Exception, match=r"define outages\(folder\)"):
        WithoutOutages().test_an_outage_is_reported_and_loses_nothing(tmp_path)


def test_missing_definitions_of_the_author_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"SinkContract must define make_sink\(folder\)"):
        SinkContract().make_sink(tmp_path)
    with pytest.raises(NotImplementedError, match=r"SinkContract must define read_back\(run, folder\)"):
        SinkContract().shown(tmp_path)


def test_a_class_that_other_processes_cannot_import_is_an_error(tmp_path: Path) -> None:
    class Local(Contract): ...

    with pytest.raises(pytest.fail.Exception, match="is defined in a function; move it to the top level"):
        Local().test_a_kill_at_any_moment_loses_no_durable_record(tmp_path)


def test_a_sink_with_a_misspelt_hook_is_named(failures: Failures) -> None:
    found = failures("Misspelt", [POINTS])
    assert "sink 'Misspelt' of an object does not match the hook specifications" in found[POINTS]


def test_a_process_that_dies_or_hangs_is_reported(tmp_path: Path) -> None:
    with (
        Child(Behavior, "die") as child,
        pytest.raises(pytest.fail.Exception, match=r"(?s)ended without a report.*the end"),
    ):
        child.read()
    with (
        Child(Behavior, "hang", timeout=0.5) as child,
        pytest.raises(pytest.fail.Exception, match=r"did not report within 0 s"),
    ):
        child.read()


def test_a_process_and_those_it_has_started_end_with_the_test() -> None:
    with Child(Behavior, "start_another") as child:
        pids = child.read()
    eventually(lambda: not any(is_alive(pid) for pid in pids))


def test_processes_started_by_a_process_can_outlive_it_until_the_test_ends() -> None:
    with Child(Behavior, "start_another") as child:
        pid, other = child.read()
        child.kill_alone()
        assert (is_alive(pid), is_alive(other)) == (False, True)
        with pytest.raises(pytest.fail.Exception, match="ended without a report"):
            child.read()
        assert is_alive(other)
    eventually(lambda: not is_alive(other))


def test_a_process_ends_when_the_test_process_has_died() -> None:
    read_end, write_end = os.pipe()
    test_process = os.fork()
    if test_process == 0:
        try:
            os.write(write_end, b"%d" % Child(Behavior, "pid").read())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(test_process, 0)
    with os.fdopen(read_end) as pipe:
        pid = int(pipe.read())
    eventually(lambda: not is_alive(pid))


class Behavior:
    """Methods to call in a separate process."""

    def die(self, report: Report) -> None:
        print("the end", flush=True)  # noqa: T201 - the output of a dying process
        os._exit(3)

    def hang(self, report: Report) -> None:
        threading.Event().wait()

    def start_another(self, report: Report) -> None:
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        report([os.getpid(), other.pid])

    def pid(self, report: Report) -> None:
        report(os.getpid())


def is_alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
