"""What the sink relies on in wandb: the same tests for the real one, offline, and for the fake."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.errors import CommError, UsageError
from wandb.sdk.mailbox import MailboxClosedError

from support.fake_wandb import FakeWandb
from support.wandb_kit import cores, exit_codes, inspect, records, rows, segment_files, wait_for
from support.wandb_server import Fault, WandbServer

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(params=["real", "fake"])
def wandb(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "real":
        import wandb

        yield wandb
        return
    fake = FakeWandb()
    yield fake
    with contextlib.suppress(ConnectionResetError):
        fake.teardown()


def init(wandb: Any, folder: Path, mode: str = "offline") -> Any:
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        init_timeout=2.0,
        finish_timeout=2.0,
        finish_timeout_raises=True,
    )
    return wandb.init(
        id="abc",
        mode=mode,
        reinit="create_new",
        resume="allow" if mode == "online" else None,
        dir=str(folder),
        project="p",
        name="water",
        config={"seed": 7, "optimizer": {"lr": 0.1}},
        settings=settings,
    )


def log(run: Any, *steps: int, **values: float) -> None:
    for step in steps:
        run.log({"a": step, "_timestamp": 5.5} | values, step=step, commit=True)


def column(folder: Path, name: str) -> list[Any]:
    return [row[name] for row in rows(folder)]


def test_a_row_has_its_step_its_values_and_the_time_that_was_given(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 7, **{"train/é [0]": 0.5})
    run.finish()
    wandb.teardown()
    assert [(row["_step"], row["a"], row["_timestamp"], row["train/é [0]"]) for row in rows(tmp_path)] == [
        (0, 0, 5.5, 0.5),
        (7, 7, 5.5, 0.5),
    ]


def test_nan_and_the_infinities_survive(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    for step, value in enumerate([math.nan, math.inf, -math.inf]):
        run.log({"v": value}, step=step, commit=True)
    run.finish()
    wandb.teardown()
    assert [str(float(value)) for value in column(tmp_path, "v")] == ["nan", "inf", "-inf"]


def test_a_row_with_a_lower_step_is_dropped(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 1, 5, 3, 6)
    run.finish()
    wandb.teardown()
    assert column(tmp_path, "a") == [0, 1, 5, 6]


def test_what_was_logged_is_not_in_the_file_yet(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, *range(5))
    time.sleep(0.2)
    assert rows(tmp_path) == []
    log(run, *range(5, 2000))
    wait_for(lambda: len(rows(tmp_path)) > 100)


def test_the_end_has_its_code_and_follows_all_rows(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 1)
    run.summary.update({"telemetry/status": "preempted"})
    run.mark_preempting()
    run.finish(exit_code=143)
    wandb.teardown()
    kinds = [record["type"] for record in inspect(segment_files(tmp_path)[0])]
    assert kinds[-1] == "exit"
    assert exit_codes(tmp_path) == [143]
    assert "preempting" in kinds
    assert {"telemetry/status": "preempted"} in [s["update"] for s in records(tmp_path, "summary")]


def test_the_file_may_be_written_a_little_after_finish(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0)
    run.finish()
    wait_for(lambda: records(tmp_path, "exit"))


def test_alerts_are_in_the_file(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    run.alert(title="loss is NaN", text="at 20", level="WARN", wait_duration=0.001)
    run.finish()
    wandb.teardown()
    (alert,) = records(tmp_path, "alert")
    assert (alert["title"], alert["text"], alert["level"]) == ("loss is NaN", "at 20", "WARN")


def test_the_configuration_is_in_the_file(wandb: Any, tmp_path: Path) -> None:
    init(wandb, tmp_path).finish()
    wandb.teardown()
    (run,) = records(tmp_path, "run")
    assert run["config"]["update"]["seed"] == 7
    assert run["config"]["update"]["optimizer"] == {"lr": 0.1}


def test_a_later_init_of_the_same_run_is_another_file_that_starts_at_step_0(wandb: Any, tmp_path: Path) -> None:
    for code in (1, 0):
        run = init(wandb, tmp_path)
        assert run.starting_step == 0
        assert Path(run.dir).parent.name.startswith("offline-run-")
        log(run, 0)
        run.finish(exit_code=code)
    wandb.teardown()
    assert len(segment_files(tmp_path)) == 2
    assert column(tmp_path, "_step") == [0, 0]


def test_a_run_that_is_open_cannot_be_opened_twice(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    with pytest.raises(Exception, match="run ID abc is in use"):
        init(wandb, tmp_path)
    run.finish()


def test_a_run_that_was_finished_takes_no_more(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    run.finish()
    with pytest.raises(UsageError, match="is finished"):
        log(run, 0)


def test_teardown_ends_runs_that_are_open_as_if_they_had_succeeded(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 1)
    wandb.teardown()
    assert column(tmp_path, "a") == [0, 1]
    assert exit_codes(tmp_path) == [0]


def test_after_a_kill_of_wandb_core_all_fails_until_a_teardown_that_fails_too(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0)
    (core,) = cores()
    os.kill(core, signal.SIGKILL)
    wait_for(lambda: not cores())
    with pytest.raises(ConnectionResetError, match="Connection"):  # noqa: PT012 - the first may be lost without a word
        for step in range(1, 1000):
            log(run, step)
            time.sleep(0.001)
    with pytest.raises(ConnectionResetError):
        run.finish()
    with pytest.raises((MailboxClosedError, ConnectionResetError)):
        init(wandb, tmp_path)
    with contextlib.suppress(SystemExit), pytest.raises(ConnectionResetError):
        wandb.teardown()
    init(wandb, tmp_path).finish()
    wandb.teardown()
    assert rows(tmp_path) == []


def test_a_wandb_core_ends_with_who_started_it_and_what_it_had_is_lost(wandb: Any, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        # The parent's wandb is not the child's, but what was imported is.
        try:
            run = init(FakeWandb() if isinstance(wandb, FakeWandb) else sys.modules["wandb"], tmp_path)
            log(run, *range(5))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not cores(child))
    assert len(segment_files(tmp_path)) == 1
    assert rows(tmp_path) == []


def test_a_wandb_core_that_is_frozen_takes_some_hundred_rows_and_holds_up_the_next(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    (core,) = cores()
    os.kill(core, signal.SIGSTOP)
    done: list[int] = []

    def thaw(*_: object) -> None:
        os.kill(core, signal.SIGCONT)

    before = signal.signal(signal.SIGALRM, thaw)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        started, longest = time.monotonic(), 0.0
        for step in range(5000):
            log(run, step)
            done.append(step)
            longest = max(longest, time.monotonic() - started)
            started = time.monotonic()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        thaw()
    assert longest > 0.5
    run.finish()
    wandb.teardown()
    assert column(tmp_path, "a") == done


class TestOnline:
    """Only of the real one: the fake has no server."""

    @pytest.fixture
    def wandb(self) -> Any:
        import wandb

        return wandb

    def test_a_run_that_is_resumed_starts_behind_what_the_server_has(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        for first in (0, 5):
            run = init(wandb, tmp_path, "online")
            assert run.starting_step == first
            log(run, *range(first, first + 5))
            run.finish()
        assert [row["_step"] for row in wandb_server.runs["p", "abc"].history] == list(range(10))

    @pytest.mark.parametrize("how", [401, 403, "cut"])
    def test_init_fails_when_the_server_does(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer, how: int | str
    ) -> None:
        wandb_server.fail(Fault(how))
        with pytest.raises(CommError, match=str(how) if isinstance(how, int) else "EOF"):
            init(wandb, tmp_path, "online")

    def test_finish_fails_in_time_when_the_server_does_not_answer(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        run = init(wandb, tmp_path, "online")
        log(run, 0)
        wandb_server.fail(Fault(500))
        with pytest.raises(TimeoutError, match="Timed out finishing run"):
            run.finish()
        assert wandb_server.runs["p", "abc"].history == []
        (core,) = cores()
        os.kill(core, signal.SIGKILL)

    def test_finish_succeeds_after_a_refusal_and_nothing_has_come(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        run = init(wandb, tmp_path, "online")
        log(run, 0)
        wandb_server.fail(Fault(401))
        run.finish()
        assert wandb_server.runs["p", "abc"].history == []
