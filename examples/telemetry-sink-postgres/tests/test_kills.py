"""Kill deliveries, and stop the server as by a power cut while they deliver: nothing is lost, nothing appears twice."""

import subprocess
import sys
import time

import psycopg

from telemetry import Metric, Settings, open_run

STEPS, BACK, METRICS = 20_000, 10_000, ("loss", "E_rmse")
FAULTS_AT = (1, 5_000, 10_000, 15_000, 10**9, 10**9 + 5_000)
"""Sequence numbers in the table at which a fault occurs; those of the second attempt start at 10⁹."""


def test_kills_and_restarts_of_the_server_lose_and_duplicate_nothing(server, tmp_path):
    run = tmp_path / "killed"
    record(run, attempt=1, steps=range(1, STEPS + 1))
    record(run, attempt=2, steps=range(BACK + 1, STEPS + 1), resume_step=BACK)
    command = [sys.executable, "-m", "telemetry", "sync", str(run), "--telemetry-sinks", "postgres"]
    delivery = subprocess.Popen(command)
    for number, seq in enumerate(FAULTS_AT):
        wait_for(seq, delivery)
        if number % 2:
            server.stop()
            server.start()
        else:
            delivery.kill()
            delivery.wait()
            delivery = subprocess.Popen(command)
    assert delivery.wait() == 0
    with psycopg.connect() as db:
        rows = db.execute("SELECT name, step, value FROM telemetry WHERE run = 'killed' ORDER BY name, seq").fetchall()
    assert rows == [
        (f"train/{name}", step, value_of(1 if step <= BACK else 2, step))
        for name in sorted(METRICS)
        for step in range(1, STEPS + 1)
    ]


def record(run, attempt, steps, **options):
    metrics = {f"train/{name}": Metric() for name in METRICS}
    with open_run(run, metrics=metrics, sinks=[], settings=Settings(every=1), **options) as bus:
        for step in steps:
            bus.publish("train", step, dict.fromkeys(METRICS, value_of(attempt, step)))
            if step % 1000 == 0:
                bus.flush()


def value_of(attempt, step):
    return attempt * 1e6 + step


def wait_for(seq, delivery):
    """Wait until the table contains this record or a later one."""
    deadline = time.monotonic() + 120
    while last_seq() < seq:
        assert delivery.poll() is None, "the delivery has ended"
        assert time.monotonic() < deadline
        time.sleep(0.005)  # between two looks: nothing announces a row


def last_seq():
    with psycopg.connect(autocommit=True) as db:
        if db.execute("SELECT to_regclass('telemetry')").fetchone() == (None,):
            return 0
        return db.execute("SELECT coalesce(max(seq), 0) FROM telemetry WHERE run = 'killed'").fetchone()[0]
