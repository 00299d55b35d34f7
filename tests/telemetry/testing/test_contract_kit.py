"""The contract kit: a sink that keeps the contract passes, and each of those that break it is told how."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from support.contract_sinks import Contract
from support.telemetry_fakes import eventually
from telemetry.testing import SinkContract
from telemetry.testing.child import Child, Report

Failures = Callable[..., dict[str, str]]

CHECKS = [name for name, _ in inspect.getmembers(Contract, inspect.isfunction) if name.startswith("test_")]

POINTS = "test_each_point_is_shown_once_in_order_with_its_step_value_time_and_unit"
NAN = "test_nan_and_the_infinities_are_shown_as_what_they_are"
NAMES = "test_odd_names_are_shown_each_as_a_curve_of_its_own"
KINDS = "test_kinds_that_it_does_not_know_are_passed_over"
MANY = "test_ten_thousand_records_are_shown_each_in_its_place"
THREADS = "test_any_thread_can_deliver"
TWO_RUNS = "test_two_runs_in_one_process_stay_apart"
ELSEWHERE = "test_a_changed_destination_is_told_and_filled_from_the_beginning"
CLOSED_TWICE = "test_closing_twice_is_closing_once_also_of_a_run_without_a_point"
CLOSED_GOES_ON = "test_a_run_that_was_closed_goes_on_whatever_its_end_was"
TOLD = "test_what_it_says_to_hold_and_to_be_durable_is_what_was_written"
TWICE = "test_a_batch_that_is_delivered_twice_is_shown_once"
DROPPED = "test_a_new_instance_goes_on_where_one_that_was_dropped_stopped"
ACKNOWLEDGED = "test_a_kill_between_write_and_acknowledgement_loses_and_doubles_nothing"
KILLED = "test_a_kill_at_any_moment_loses_nothing_that_was_called_durable"
REWOUND = "test_a_new_attempt_that_goes_back_in_steps_is_shown_as_declared"
FULL = "test_a_full_disk_or_no_file_descriptors_are_told_and_cost_nothing"
OUTAGE = "test_an_outage_is_told_and_costs_nothing"
OPTIONS = "test_options_are_refused_by_name"
IMPORTS = "test_the_sdk_is_imported_only_when_the_sink_is_opened"


IN_OTHER_PROCESSES = {ACKNOWLEDGED, KILLED, FULL, IMPORTS}
"""These take longer, and are run for those sinks only that they are expected to find."""

# For each sink that breaks the contract in one way: the checks that must find it, and what they say.
ONE_CHECK_FINDS = {
    "RoundsSteps": (POINTS, "has step 0 instead of 8589934592"),
    "SwallowsNaN": (NAN, "A run that diverges has such values"),
    "CleansNames": (NAMES, "'val/fid 1/E_rmse' has 0 points instead of 2"),
    "KnowsScalarsOnly": (KINDS, "pass over what is no Scalars"),
    "Samples": (MANY, "Nothing may be sampled or dropped"),
    "NeedsTheMainThread": (THREADS, "signal only works in main thread"),
    "IsGlobal": (TWO_RUNS, "not in the module"),
    "NamesNoPlace": (ELSEWHERE, "destination is 'lines' in both places"),
    "EndsForGood": (CLOSED_GOES_ON, "this run has failed"),
    "Doubles": (TWICE, "pass over records up to it"),
    "NeverDurable": (TOLD, "declare durable_on_write = False"),
    "IgnoresResumes": (REWOUND, "rewinds is 'replaced'"),
    "KeepsTheTorn": (FULL, "may have written a part of its batch"),
    "GivesUp": (FULL, "Raise SinkUnavailable for what may pass; delivery ends at a SinkRejected"),
    "TakesAnything": (OPTIONS, "the option 'more' takes a value of any type"),
    "ImportsWhenMade": (IMPORTS, "importing or constructing ImportsWhenMade imports click"),
    "NeedsMore": (IMPORTS, "sink_open succeeded without click"),
    "LetsImportErrorsPass": (IMPORTS, "sink_open raised ModuleNotFoundError"),
}
SEVERAL_FIND = {
    "LosesTheLast": {POINTS: "Write each record of a batch, in order", TOLD: "sink_open says that 11 is the last"},
    "SwapsTwo": {POINTS: "has step 200 instead of 190"},
    "RoundsTimes": {POINTS: "has time 1700000001000 instead of 1700000001001"},
    "ForgetsUnits": {POINTS: "has unit '1' instead of 'kcal/mol'"},
    "ClosesBadly": {CLOSED_TWICE: "'run/closed' is shown, which was never written"},
    "CannotTell": {TOLD: "declare tells_last_seq = False", DROPPED: "last_seq is None"},
    "SaysTooMuch": {
        TOLD: "what is between would never be delivered",
        ACKNOWLEDGED: "sink_open says that 21 is the last record there, but only 20 have come",
    },
    "Buffers": {
        DROPPED: "sink_open says that 0 is the last record there, but 10 is",
        ACKNOWLEDGED: "sink_write says that the last durable record is 20, but after a kill 'train/loss' has 0 points",
        KILLED: "Claim what has reached the backend only",
    },
    "StaysWhereItStarted": {
        ELSEWHERE: "make it absolute, as `telemetry sync` is started from anywhere",
        ACKNOWLEDGED: "not depend on the working directory",
    },
    "RaisesItsOwn": {FULL: "sink_write raised OSError", OUTAGE: "sink_write raised IsADirectoryError"},
    "ReturnsNothing": {POINTS: "sink_open returned None; return telemetry.Opened"},
}


@pytest.fixture(name="failures")
def _failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failures:
    """Give a function that gives the message of each check that a sink fails."""

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


def test_the_checks_are_these() -> None:
    here = {value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    assert set(CHECKS) == here


def test_each_check_finds_a_sink_that_only_it_finds_or_that_others_find_too() -> None:
    found = {check for check, _ in ONE_CHECK_FINDS.values()} | {c for found in SEVERAL_FIND.values() for c in found}
    assert found == set(CHECKS)


def test_a_sink_that_keeps_the_contract_passes(failures: Failures) -> None:
    assert failures("LinesSink", CHECKS) == {}


@pytest.mark.parametrize("sink", ONE_CHECK_FINDS)
def test_a_sink_that_breaks_it_in_one_way_fails_the_one_check_that_is_about_that(sink: str, failures: Failures) -> None:
    check, words = ONE_CHECK_FINDS[sink]
    found = failures(sink, set(CHECKS) - (IN_OTHER_PROCESSES - {check}))
    assert set(found) == {check}
    assert words in found[check]


@pytest.mark.parametrize("sink", SEVERAL_FIND)
def test_a_sink_that_breaks_it_everywhere_is_told_how(sink: str, failures: Failures) -> None:
    expected = SEVERAL_FIND[sink]
    found = failures(sink, expected)
    assert {check: words for check, words in expected.items() if words not in found.get(check, "")} == {}


class Weaker(Contract):
    """What a weaker backend declares."""

    tells_last_seq = False
    durable_on_write = False
    exactly_once = False


@pytest.mark.parametrize("sink", ["CannotTell", "NeverDurable", "CannotTellAndDoubles"])
def test_a_weakness_that_is_declared_is_none(sink: str, failures: Failures) -> None:
    assert failures(sink, CHECKS, Weaker) == {}


def test_a_sink_without_outages_is_told_that_they_are_not_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Contract, "outages", SinkContract.outages)
    monkeypatch.setenv("CONTRACT_SINK", "LinesSink")
    with pytest.raises(pytest.skip.Exception, match=r"give outages\(folder\)"):
        Contract().test_an_outage_is_told_and_costs_nothing(tmp_path)


def test_what_the_author_must_give_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"SinkContract has no make_sink\(folder\)"):
        SinkContract().make_sink(tmp_path)
    with pytest.raises(NotImplementedError, match=r"SinkContract has no read_back\(folder\)"):
        SinkContract().read_back(tmp_path)


def test_a_class_that_other_processes_cannot_find_is_refused(tmp_path: Path) -> None:
    class Local(Contract): ...

    with pytest.raises(
        pytest.fail.Exception, match="is defined in a function; other processes find it only in a module"
    ):
        Local().test_a_kill_at_any_moment_loses_nothing_that_was_called_durable(tmp_path)


def test_a_sink_whose_hooks_do_not_fit_is_refused_by_name(failures: Failures) -> None:
    found = failures("Misspelt", [POINTS])
    assert "sink 'Misspelt' of an object does not fit the hook specifications" in found[POINTS]


def test_a_process_that_dies_or_hangs_is_told(tmp_path: Path) -> None:
    with Child(Odd, "die") as child, pytest.raises(pytest.fail.Exception, match=r"(?s)ended without a word.*the end"):
        child.read()
    with (
        Child(Odd, "hang", timeout=0.5) as child,
        pytest.raises(pytest.fail.Exception, match=r"has not answered within 0 s"),
    ):
        child.read()


def test_a_process_and_what_it_has_started_end_with_the_test() -> None:
    with Child(Odd, "start_another") as child:
        pids = child.read()
    eventually(lambda: not any(is_alive(pid) for pid in pids))


def test_what_a_process_has_started_can_outlive_it_until_the_test_ends() -> None:
    with Child(Odd, "start_another") as child:
        pid, other = child.read()
        child.kill_alone()
        assert (is_alive(pid), is_alive(other)) == (False, True)
        with pytest.raises(pytest.fail.Exception, match="ended without a word"):
            child.read()
        assert is_alive(other)
    eventually(lambda: not is_alive(other))


def test_a_process_ends_when_nobody_is_left_to_kill_it() -> None:
    with Child(Odd, "pid") as child:
        pid = child.read()
        os.close(child._pipe)
        eventually(lambda: not is_alive(pid))
        child._pipe = os.open(os.devnull, os.O_RDONLY)


class Odd:
    """What a process may be told to do."""

    def die(self, report: Report) -> None:
        print("the end", flush=True)  # noqa: T201 - what a dying process says
        os._exit(3)

    def hang(self, report: Report) -> None:
        threading.Event().wait()

    def start_another(self, report: Report) -> None:
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        report([os.getpid(), other.pid])

    def pid(self, report: Report) -> None:
        report(os.getpid())


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
