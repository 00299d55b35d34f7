"""Find the sink by name, deliver runs with it, read them with the queries for Grafana, and check what it rejects."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from telemetry import Settings, open_run
from telemetry.cli import main
from telemetry.plugins.registry import select
from telemetry.sink_api import Metric, RunUpdate, Scalars, SinkRejected, SinkUnavailable
from telemetry.testing import resumed, run_record, scalars

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
VARIABLE, OVER_TIME, OVER_ITERATIONS = re.findall(r"^```sql\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _empty(server):
    query("DROP TABLE IF EXISTS telemetry")


def query(text, *values):
    with psycopg.connect(autocommit=True) as db:
        result = db.execute(text, values or None)
        return result.fetchall() if result.description else []


def opened(run=None, **options):
    (sink,) = select(["postgres"], {"postgres": options})
    hooks = sink.create()
    return hooks, hooks.sink_open(run=run or run_record(), folder=Path())


def grafana(text, run):
    """Replace the macros and variables of Grafana as Grafana does."""
    text = text.replace("${run:sqlstring}", f"'{run}'")
    return re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2020-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", text)


def test_a_delivery_process_writes_the_run_and_grafana_shows_it(tmp_path):
    settings = Settings(sinks=("postgres",), every=1, poll=0.05)
    metrics = {
        "val/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle"),
        "train/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle"),
    }
    with open_run(tmp_path / "run", metrics=metrics, settings=settings) as bus:
        for step in (1, 2, 3):
            bus.publish("train", step, {"E_rmse": step / 10})
            bus.publish("val", step, {"E_rmse": step / 5})
    assert query(VARIABLE) == [("run",)]
    curve = [23.060547830619 * step / 5 for step in (1, 2, 3)]
    over_time = query(grafana(OVER_TIME, "run"))
    assert [metric for _, metric, _ in over_time] == ["run val/E_rmse (kcal/mol)"] * 3
    assert [value for _, _, value in over_time] == pytest.approx(curve)
    over_iterations = query(grafana(OVER_ITERATIONS, "run"))
    assert [step for step, _, _ in over_iterations] == [1, 2, 3]
    assert [val for _, _, val in over_iterations] == pytest.approx(curve)
    assert [train for _, train, _ in over_iterations] == pytest.approx([value / 2 for value in curve])


def test_it_is_listed_with_its_option():
    listed = CliRunner().invoke(main, ["sinks"]).stdout
    package = f"telemetry-sink-postgres {version('telemetry-sink-postgres')}"
    assert f"postgres  ({package})  installed\n    telemetry.postgres.dsn: str = ''\n" in listed


def test_a_connection_string_in_a_run_folder_must_be_confirmed(tmp_path):
    settings = Settings(sinks=("postgres",), every=1, poll=0.05, options={"postgres": {"dsn": "dbname=postgres"}})
    with open_run(tmp_path / "run", metrics={"train/loss": Metric()}, settings=settings) as bus:
        bus.publish("train", 1, {"loss": 0.5})
    sync = ["sync", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, sync)
    assert refused.exit_code == 2
    assert "the destination postgres.dsn=dbname=postgres comes from the run folder" in refused.stderr
    confirmed = CliRunner().invoke(main, [*sync, "-o", "postgres.dsn=dbname=postgres"])
    assert (confirmed.exit_code, "postgres: closed; 1 delivered, 0 pending" in confirmed.stdout) == (0, True)
    assert query("SELECT step, value FROM telemetry") == [(1, 0.5)]


def test_the_unit_of_a_metric_that_appears_later_is_shown(server):
    hooks, _ = opened()
    later = RunUpdate(seq=1, time=0, metrics={"val/stress": Metric(unit="GPa"), "val/E_rmse": Metric(unit="eV")})
    hooks.sink_write(records=[later, scalars(2, stream="val", stress=1.0, E_rmse=1.0, other=1.0)])
    assert query("SELECT name, unit FROM telemetry ORDER BY name") == [
        ("val/E_rmse", "kcal/mol"),  # as declared first
        ("val/other", "1"),
        ("val/stress", "GPa"),
    ]


def test_what_postgresql_cannot_store_is_rejected_and_delivery_continues(server):
    hooks, _ = opened()
    with pytest.raises(SinkRejected, match="NUL"):
        hooks.sink_write(records=[scalars(1), scalars(2, **{"a\0b": 1.0})])
    with pytest.raises(SinkRejected, match="out of range"):
        hooks.sink_write(records=[scalars(1), Scalars(seq=2, time=1 << 61, stream="train", step=20, values={"a": 1.0})])
    assert query("SELECT count(*) FROM telemetry") == [(0,)]
    assert hooks.sink_write(records=[scalars(1), scalars(3)]) == 3
    assert query("SELECT seq FROM telemetry ORDER BY seq") == [(1,), (3,)]


def test_another_table_of_this_name_is_left_alone(server):
    query("CREATE TABLE telemetry (message text)")
    with pytest.raises(SinkRejected, match='column "seq" does not exist'):
        opened()


def test_a_role_that_may_only_write_does_not_create_the_table(server):
    opened()
    query("CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, DELETE ON telemetry TO writer")
    hooks, _ = opened(dsn="user=writer")
    assert hooks.sink_write(records=[scalars(1), resumed(10**9 + 1, step=0)]) == 10**9 + 1
    query("DROP TABLE telemetry; CREATE ROLE reader LOGIN")
    with pytest.raises(SinkRejected, match="permission denied for schema public"):
        opened(dsn="user=reader")


def test_a_server_that_does_not_answer_is_reported_without_the_password():
    with pytest.raises(SinkUnavailable, match="Connection refused") as caught:
        opened(dsn="postgresql://me:my-secret@127.0.0.1:1/training")
    assert "my-secret" not in str(caught.value)


def test_a_resume_delivered_again_does_not_delete_the_rows_of_its_attempt(server):
    records = [*map(scalars, range(1, 7)), resumed(10**9 + 1, step=30), scalars(10**9 + 2, step=40)]
    opened()[0].sink_write(records=records)
    opened()[0].sink_write(records=records[:-1])
    assert query("SELECT seq FROM telemetry ORDER BY seq") == [(1,), (2,), (3,), (10**9 + 2,)]


def test_a_new_instance_waits_for_the_transaction_of_a_killed_one(server):
    killed, _ = opened()
    with ThreadPoolExecutor() as threads, psycopg.connect() as other:
        # Its row delays the transaction of the instance.
        other.execute("INSERT INTO telemetry VALUES ('water', '2023-11-14T22:13:20Z', 'train/loss', 2)")
        writing = threads.submit(killed.sink_write, records=[scalars(1), scalars(2)])
        wait_until_blocked("transactionid")
        opening = threads.submit(opened)
        wait_until_blocked("advisory")
        other.rollback()
        assert writing.result() == 2
        assert opening.result()[1].last_seq == 2


def wait_until_blocked(kind):
    deadline = time.monotonic() + 20
    while not query("SELECT 1 FROM pg_locks WHERE locktype = %s AND NOT granted", kind):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks: nothing announces a lock
