"""Killed deliveries and immediate restarts of PostgreSQL: MLflow with its store there, and the example sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.chaos.backends import Mlflow, Postgres
from support.chaos.figures import Figures
from support.chaos.processes import named
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually

pytest.importorskip("psycopg")
pytest.importorskip("mlflow")
pytest.importorskip("telemetry_sink_postgres", reason="pip install ./examples/telemetry-sink-postgres")

from postgres_server import MISSING, PostgresServer, find_programs

from support.mlflow_kit import IGNORE_NOLOAD, Server

pytestmark = [IGNORE_NOLOAD, pytest.mark.chaos, pytest.mark.skipif(find_programs() is None, reason=MISSING)]
FAULTS = 24


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def deliver_through_faults(run: ChaosRun, database: PostgresServer, values: int) -> Figures:
    """Record values, and alternately kill their delivery and restart the database while they are delivered."""
    (sink,) = run.sinks
    trainer = run.start(points=values, stay=10 * PATIENCE)
    for number in range(FAULTS):
        eventually(lambda goal=values * number // FAULTS: run.accepted(sink.name) > goal, PATIENCE)
        if number % 2:
            database.stop()
            database.start()
        else:
            eventually(lambda: named(trainer.pid, "delivery"), PATIENCE)
            run.kill_target(trainer, "delivery")
    run.stop(trainer)
    return run.finish()


def test_mlflow_on_postgresql(
    chaos_run: Callable[..., ChaosRun],
    database: PostgresServer,
    tmp_path: Path,
    count: int,
    figures: Callable[[object], None],
) -> None:
    with Server(tmp_path, "postgresql+psycopg://") as server:
        run = chaos_run(Mlflow(address=server.start()), pause=0.0001)
        figures(f"{deliver_through_faults(run, database, 200 * count)}; {FAULTS // 2} restarts of the database")
        run.check()


def test_the_example_sink_for_postgresql(
    chaos_run: Callable[..., ChaosRun], database: PostgresServer, count: int, figures: Callable[[object], None]
) -> None:
    run = chaos_run(Postgres(), pause=0.0001)
    figures(f"{deliver_through_faults(run, database, 200 * count)}; {FAULTS // 2} restarts of the database")
    run.check()
