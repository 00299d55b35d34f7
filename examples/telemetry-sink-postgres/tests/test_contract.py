"""Run the sink contract tests of telemetry on the PostgreSQL sink, with a server that fails in three ways."""

from contextlib import contextmanager

import psycopg
import pytest
from telemetry_sink_postgres import PostgresSink

from telemetry.testing import Point, SinkContract


class TestPostgres(SinkContract):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make_sink(self, folder):
        return PostgresSink(PostgresSink.Options())

    def make_elsewhere(self, folder):
        with psycopg.connect(autocommit=True) as db:
            db.execute("CREATE DATABASE elsewhere")
        return PostgresSink(PostgresSink.Options(dsn="dbname=elsewhere"))

    def read_back(self, run):
        query = """
            SELECT name, step, value, (extract(epoch FROM time) * 1000)::bigint, unit FROM telemetry
            WHERE run = %s AND started = to_timestamp(%s / 1000.0) ORDER BY seq"""
        with psycopg.connect() as db:
            return [Point(*row) for row in db.execute(query, (run.run_id, run.started))]

    def outages(self, folder):
        return [
            self.stopped(),
            altered("ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"),
            altered("SET default_transaction_read_only = on", "RESET default_transaction_read_only"),
        ]

    @contextmanager
    def stopped(self):
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


@contextmanager
def altered(during, afterwards):
    alter(during)
    try:
        yield
    finally:
        alter(afterwards)


def alter(change):
    with psycopg.connect("dbname=template1", autocommit=True) as db:
        db.execute(f"ALTER DATABASE postgres {change}")
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'")
