"""The behavior of wandb on which the sink relies, tested on the real package (offline) and on the fake."""

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
from support.wandb_kit import client_pids, exit_codes, inspect, records, rows, transaction_logs, wait_for
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


def test_a_row_has_the_given_step_values_and_time(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 7, **{"train/é [0]": 0.5})
    run.finish()
    wandb.teardown()
    assert [(row["_step"], row["a"], row["_timestamp"], row["train/é [0]"]) for row in rows(tmp_path)] == [
        (0, 0, 5.5, 0.5),
        (7, 7, 5.5, 0.5),
    ]


def test_nan_and_infinities_are_kept(wandb: Any, tmp_path: Path) -> None:
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


def test_logged_rows_are_buffered_before_they_are_written(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, *range(5))
    time.sleep(0.2)
    assert rows(tmp_path) == []
    log(run, *range(5, 2000))
    wait_for(lambda: len(rows(tmp_path)) > 100)


def test_the_exit_record_has_its_code_and_follows_all_rows(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 1)
    run.summary.update({"telemetry/status": "preempted"})
    run.mark_preempting()
    run.finish(exit_code=143)
    wandb.teardown()
    kinds = [record["type"] for record in inspect(transaction_logs(tmp_path)[0])]
    assert kinds[-1] == "exit"
    assert exit_codes(tmp_path) == [143]
    assert "preempting" in kinds
    assert {"telemetry/status": "preempted"} in [s["update"] for s in records(tmp_path, "summary")]


def test_the_file_may_be_completed_shortly_after_finish(wandb: Any, tmp_path: Path) -> None:
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


def test_a_later_init_of_the_same_run_creates_another_file_starting_at_step_0(wandb: Any, tmp_path: Path) -> None:
    for code in (1, 0):
        run = init(wandb, tmp_path)
        assert run.starting_step == 0
        assert Path(run.dir).parent.name.startswith("offline-run-")
        log(run, 0)
        run.finish(exit_code=code)
    wandb.teardown()
    assert len(transaction_logs(tmp_path)) == 2
    assert column(tmp_path, "_step") == [0, 0]


def test_an_open_run_cannot_be_opened_again(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    with pytest.raises(Exception, match="run ID abc is in use"):
        init(wandb, tmp_path)
    run.finish()


def test_a_finished_run_accepts_no_rows(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    run.finish()
    with pytest.raises(UsageError, match="is finished"):
        log(run, 0)


def test_teardown_finishes_open_runs_as_successful(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0, 1)
    wandb.teardown()
    assert column(tmp_path, "a") == [0, 1]
    assert exit_codes(tmp_path) == [0]


def test_after_a_kill_of_the_client_every_call_fails_until_teardown_which_fails_too(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    log(run, 0)
    (core,) = client_pids()
    os.kill(core, signal.SIGKILL)
    wait_for(lambda: not client_pids())
    with pytest.raises(ConnectionResetError, match="Connection"):  # noqa: PT012 - the first call may still succeed
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


def test_the_client_ends_with_its_parent_and_its_buffered_rows_are_lost(wandb: Any, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        # The child inherits the imported modules, but not the client process.
        try:
            run = init(FakeWandb() if isinstance(wandb, FakeWandb) else sys.modules["wandb"], tmp_path)
            log(run, *range(5))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not client_pids(child))
    assert len(transaction_logs(tmp_path)) == 1
    assert rows(tmp_path) == []


def test_a_suspended_client_accepts_some_hundred_rows_and_blocks_the_next(wandb: Any, tmp_path: Path) -> None:
    run = init(wandb, tmp_path)
    (core,) = client_pids()
    os.kill(core, signal.SIGSTOP)
    done: list[int] = []

    def resume(*_: object) -> None:
        os.kill(core, signal.SIGCONT)

    before = signal.signal(signal.SIGALRM, resume)
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
        resume()
    assert longest > 0.5
    run.finish()
    wandb.teardown()
    assert column(tmp_path, "a") == done


class TestOnline:
    """Only for the real wandb, because the fake has no server."""

    @pytest.fixture
    def wandb(self) -> Any:
        import wandb

        return wandb

    def test_a_resumed_run_starts_after_the_rows_on_the_server(
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

    def test_finish_times_out_when_the_server_fails(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        run = init(wandb, tmp_path, "online")
        log(run, 0)
        wandb_server.fail(Fault(500))
        with pytest.raises(TimeoutError, match="Timed out finishing run"):
            run.finish()
        assert wandb_server.runs["p", "abc"].history == []
        (core,) = client_pids()
        os.kill(core, signal.SIGKILL)

    def test_finish_succeeds_although_the_key_was_rejected_and_no_rows_arrived(
        self, wandb: Any, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        run = init(wandb, tmp_path, "online")
        log(run, 0)
        wandb_server.fail(Fault(401))
        run.finish()
        assert wandb_server.runs["p", "abc"].history == []
