"""Backends that are down, rejecting, failing, hung or slow, and recover: training ends, and all points are present."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos.backends import Mlflow, Recording, TensorBoard, WandbOnline
from support.chaos.processes import kill
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually
from telemetry import read_receipt
from telemetry.run_folder.sink_progress import read_progress

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

from support.mlflow_kit import IGNORE_NOLOAD, Server, shared_server
from support.mlflow_proxy import Fault, Proxy, Request
from support.wandb_server import KEY, WandbServer
from support.wandb_server import Fault as WandbFault

pytestmark = [IGNORE_NOLOAD, pytest.mark.chaos]

STEADY = {"pause": 0.02, "drain_timeout": 60.0}
SLOW_EXIT = 40.0
"""Seconds within which a trainer with a drain timeout of 2 s must end; generous, for a busy machine."""
ENDLESS = 20_000


@pytest.fixture
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with Proxy(shared_server(request.config)) as proxy:
        yield proxy


@pytest.fixture
def wandb_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        server.fail(None)


def check(run: ChaosRun) -> str:
    """Assert that each backend has every point exactly once; return the line of figures."""
    run.wait_for_processes()
    run.sync()
    run.compare()
    run.check()
    receipt = read_receipt(run.run)
    assert [sink.pending for sink in receipt.sinks] == [0] * len(run.sinks)
    retries = {sink.name: sink.progress.retries for sink in receipt.sinks}
    return f"{run.figures}; retries {retries}"


def cause_fault(proxy: Proxy, run: ChaosRun, how: Callable[[Request], Fault | None], times: int = 2) -> None:
    """Cause a fault the given number of times; the sink must then recover by itself."""
    seen = Counter[str]()

    def fault(request: Request) -> Fault | None:
        seen["n"] += 1
        return how(request)

    proxy.fault = fault
    eventually(lambda: seen["n"] >= times, PATIENCE)
    proxy.fault = lambda _: None
    proxy.release()
    run.wait_for_new_point("mlflow")


def respond_slowly(seconds: float) -> Callable[[Request], None]:
    return lambda _: time.sleep(seconds)


def with_status(status: int, **more: Any) -> Callable[[Request], Fault]:
    return lambda _: Fault(status, "fault on request", **more)


def test_mlflow_fails_in_several_ways_and_delivery_continues(
    chaos_run: Callable[..., ChaosRun], proxy: Proxy, figures: Callable[[object], None]
) -> None:
    run = chaos_run(Mlflow(address=proxy.url), Recording(), **STEADY)
    trainer = run.start(points=ENDLESS)
    eventually(lambda: run.accepted("mlflow"), PATIENCE)
    for status in (500, 503, 429, 404, 413, 400):
        cause_fault(proxy, run, with_status(status))
    cause_fault(proxy, run, with_status(0))
    cause_fault(proxy, run, with_status(0, taken=True))
    cause_fault(proxy, run, respond_slowly(0.3), times=4)
    cause_fault(proxy, run, respond_slowly(3.0), times=1)
    cause_fault(proxy, run, with_status(0, hangs=True), times=1)
    run.wait_for_new_point("file")
    run.stop(trainer)
    figures(check(run))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503])
def test_mlflow_rejects_everything_from_the_start(
    chaos_run: Callable[..., ChaosRun], proxy: Proxy, figures: Callable[[object], None], status: int
) -> None:
    proxy.fault = with_status(status)
    run = chaos_run(Mlflow(address=proxy.url), Recording(), pause=0.002, drain_timeout=2.0, linger=2.0)
    trainer = run.start(points=ENDLESS)
    eventually(lambda: (p := read_progress(run.run, "mlflow")) is not None and p.last_error, PATIENCE)
    run.wait_for_new_point("file")
    began = time.monotonic()
    assert f"telemetry sync {run.run} --telemetry-sinks mlflow" in run.stop(trainer, SLOW_EXIT)
    took = time.monotonic() - began
    proxy.fault = lambda _: None
    figures(f"{check(run)}; the end took {took:.1f} s")


def test_mlflow_is_unreachable_for_the_whole_run(
    chaos_run: Callable[..., ChaosRun],
    proxy: Proxy,
    figures: Callable[[object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        # The kernel accepts connections, but there is no answer.
        hole.listen(1)
        address = f"http://127.0.0.1:{hole.getsockname()[1]}"
        run = chaos_run(Mlflow(address=address), Recording(), pause=0.002, drain_timeout=2.0, linger=2.0)
        trainer = run.start(points=ENDLESS)
        eventually(lambda: (p := read_progress(run.run, "mlflow")) is not None and p.retries, PATIENCE)
        began = time.monotonic()
        run.stop(trainer, SLOW_EXIT)
        took = time.monotonic() - began
        run.wait_for_processes()
    run.sync("mlflow", options=[f"mlflow.tracking_uri={proxy.url}"])
    run.sinks[0].address = proxy.url
    run.compare()
    run.check()
    figures(f"{run.figures}; the end took {took:.1f} s")


def test_an_mlflow_server_starts_late_stops_and_returns_after_the_run(
    chaos_run: Callable[..., ChaosRun], tmp_path: Path, figures: Callable[[object], None]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with Server(folder) as server:
        address = f"http://127.0.0.1:{server.port}"
        run = chaos_run(Mlflow(address=address), Recording(), pause=0.02, drain_timeout=2.0, linger=2.0)
        trainer = run.start(points=ENDLESS)
        eventually(lambda: (p := read_progress(run.run, "mlflow")) is not None and p.retries, PATIENCE)
        server.start()
        run.wait_for_new_point("mlflow")
        server.kill()
        eventually(lambda: read_progress(run.run, "mlflow").state == "retrying", PATIENCE)
        server.start()
        run.wait_for_new_point("mlflow")
        server.kill()
        run.stop(trainer, SLOW_EXIT)
        run.wait_for_processes()
        server.start()
        figures(check(run))


@pytest.mark.parametrize("how", [500, 503, 429, 404, 400, 401, 413, "cut", "lost", "hang"])
def test_a_wandb_server_fails_for_a_while(
    chaos_run: Callable[..., ChaosRun], wandb_at: WandbServer, figures: Callable[[object], None], how: int | str
) -> None:
    run = chaos_run(WandbOnline(wandb_at), Recording(), **STEADY)
    trainer = run.start(points=ENDLESS)
    eventually(lambda: run.accepted("wandb"), PATIENCE)
    wandb_at.fail(WandbFault(how, times=1 if how == "hang" else 6))
    run.wait_for_new_point("file")
    time.sleep(3.0)
    wandb_at.fail(None)
    run.wait_for_new_point("wandb")
    run.stop(trainer, 2 * PATIENCE)
    figures(check(run))


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_a_wandb_server_answers_slowly_for_the_whole_run(
    chaos_run: Callable[..., ChaosRun], wandb_at: WandbServer, figures: Callable[[object], None], seconds: float
) -> None:
    wandb_at.fail(WandbFault("slow", seconds=seconds))
    run = chaos_run(WandbOnline(wandb_at), Recording(), **STEADY)
    trainer = run.start(points=ENDLESS)
    run.wait_for_new_point("file")
    run.wait_for_new_point("wandb")
    began = time.monotonic()
    run.stop(trainer, 2 * PATIENCE)
    took = time.monotonic() - began
    wandb_at.fail(None)
    figures(f"{check(run)}; the end took {took:.1f} s")


def test_a_wandb_server_stops_and_returns_after_the_run(
    chaos_run: Callable[..., ChaosRun], wandb_at: WandbServer, figures: Callable[[object], None]
) -> None:
    run = chaos_run(WandbOnline(wandb_at), Recording(), pause=0.02, drain_timeout=2.0, linger=2.0)
    trainer = run.start(points=ENDLESS)
    run.wait_for_new_point("wandb")
    wandb_at.fail(WandbFault("cut"))
    run.wait_for_new_point("file")
    began = time.monotonic()
    run.stop(trainer, SLOW_EXIT)
    took = time.monotonic() - began
    for pid in run.processes():
        kill(pid)
    wandb_at.fail(None)
    figures(f"{check(run)}; the end took {took:.1f} s")


@pytest.mark.parametrize("how", [401, 403, 500, "cut"])
def test_a_wandb_server_rejects_everything_from_the_start(
    chaos_run: Callable[..., ChaosRun], wandb_at: WandbServer, figures: Callable[[object], None], how: int | str
) -> None:
    wandb_at.fail(WandbFault(how))
    run = chaos_run(WandbOnline(wandb_at), Recording(), pause=0.02, drain_timeout=2.0, linger=2.0)
    trainer = run.start(points=ENDLESS)
    eventually(lambda: (p := read_progress(run.run, "wandb")) is not None and p.last_error, PATIENCE)
    run.wait_for_new_point("file")
    began = time.monotonic()
    run.stop(trainer, SLOW_EXIT)
    took = time.monotonic() - began
    wandb_at.fail(None)
    figures(f"{check(run)}; the end took {took:.1f} s")


def test_the_disk_of_tensorboard_fails_in_several_ways(
    chaos_run: Callable[..., ChaosRun], tmp_path: Path, figures: Callable[[object], None]
) -> None:
    ways = [(when, do) for do in ("ENOSPC", "EIO", "EROFS", "ESTALE", "EDQUOT") for when in ("before", "sync")]
    ways.append(("before", "hang"))
    flags = [tmp_path / f"{when}-{do}" for when, do in ways]
    faults = [
        {"role": "delivery", "point": "backend", "when": when, "do": do, "flag": str(flag)}
        for (when, do), flag in zip(ways, flags, strict=True)
    ]
    run = chaos_run(TensorBoard(), pause=0.02, hook_timeout=2.0)
    trainer = run.start(faults, points=ENDLESS)
    eventually(lambda: run.accepted("tensorboard"), PATIENCE)
    for flag, (_, do) in zip(flags, ways, strict=True):
        before = read_progress(run.run, "tensorboard").retries
        flag.touch()
        if do == "hang":
            log = run.run / "sinks" / "tensorboard.log"
            eventually(lambda log=log: "has not returned for" in log.read_text(), PATIENCE)
        else:
            eventually(lambda n=before: read_progress(run.run, "tensorboard").retries > n, PATIENCE)
        flag.unlink()
        run.wait_for_new_point("tensorboard")
    run.stop(trainer)
    figures(check(run))


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_the_disk_of_tensorboard_is_slow_for_the_whole_run(
    chaos_run: Callable[..., ChaosRun], tmp_path: Path, figures: Callable[[object], None], seconds: float
) -> None:
    flag = tmp_path / "slow"
    flag.touch()
    fault = {"role": "delivery", "point": "backend", "when": "sync", "do": "slow", "flag": str(flag)}
    run = chaos_run(TensorBoard(), Recording(), **STEADY)
    trainer = run.start([fault | {"seconds": seconds}], points=ENDLESS)
    run.wait_for_new_point("file")
    run.wait_for_new_point("tensorboard")
    began = time.monotonic()
    run.stop(trainer)
    took = time.monotonic() - began
    flag.unlink()
    figures(f"{check(run)}; the end took {took:.1f} s")


@pytest.mark.parametrize("way", ["down", "hang", "crash"])
def test_a_misbehaving_sink_does_not_affect_the_others(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], way: str
) -> None:
    run = chaos_run(Recording(), Recording("other"), TensorBoard(), pause=0.002, drain_timeout=5.0, linger=1.0)
    (run.folder / "file").mkdir()
    (run.folder / "file" / way).touch()
    trainer = run.start(points=1000, stay=PATIENCE)
    for name in ("other", "tensorboard"):
        eventually(lambda name=name: run.accepted(name) >= 1000, PATIENCE)
    began = time.monotonic()
    run.stop(trainer, SLOW_EXIT)
    took = time.monotonic() - began
    (run.folder / "file" / way).unlink()
    for pid in run.processes() if way == "hang" else ():
        kill(pid)
    figures(f"{check(run)}; the end took {took:.1f} s")
