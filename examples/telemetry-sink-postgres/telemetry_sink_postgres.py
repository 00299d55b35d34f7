"""A telemetry sink that writes to a table of a PostgreSQL database, one row per value."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from telemetry.sink_api import (
    Opened,
    Resumed,
    RunUpdate,
    Scalars,
    SinkRejected,
    backend_errors,
    format_error,
    hookimpl,
)

# The primary key also finds the curves of a run.
CREATE = """
    CREATE TABLE IF NOT EXISTS telemetry (
        run text, started timestamptz, name text, seq bigint, time timestamptz, step bigint, value float8, unit text,
        PRIMARY KEY (run, name, started, seq)
    )"""
# The transaction of a writer that was killed may not have ended yet.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(run)s, %(started)s))"
LAST_SEQ = """
    SELECT coalesce(max(seq), 0) FROM telemetry
    WHERE run = %(run)s AND started = to_timestamp(%(started)s / 1000.0)"""
UPSERT = """
    INSERT INTO telemetry (run, started, name, seq, time, step, value, unit)
    VALUES (
        %(run)s, to_timestamp(%(started)s / 1000.0), %(name)s, %(seq)s, to_timestamp(%(time)s / 1000.0), %(step)s,
        %(value)s, %(unit)s
    ) ON CONFLICT DO NOTHING"""
SUPERSEDE = """
    DELETE FROM telemetry
    WHERE run = %(run)s AND started = to_timestamp(%(started)s / 1000.0) AND seq < %(seq)s AND step > %(step)s"""


@contextmanager
def postgres_errors(*rejections):
    """Translate the errors of psycopg; those with the given names will occur again."""
    with backend_errors("postgres"):
        import psycopg

        try:
            yield
        except tuple(getattr(psycopg, name) for name in rejections) as error:
            raise SinkRejected(f"postgres: {format_error(error)}") from error


class PostgresSink:
    requires = ("psycopg",)
    destinations: ClassVar = {"dsn": lambda dsn, run: False}  # libpq may send a password of the user to any server

    @dataclass
    class Options:
        dsn: str = ""  # the rest comes from PGHOST, PGDATABASE, PGUSER, ~/.pgpass …

    def __init__(self, options):
        self.options = options

    @hookimpl
    @postgres_errors("DataError", "ProgrammingError")  # such as a missing privilege
    def sink_open(self, run):
        import psycopg

        self.run = {"run": run.run_id, "started": run.started}
        self.units = {name: metric.unit for name, metric in run.metrics.items()}
        self.db = psycopg.connect(self.options.dsn, autocommit=True)
        with self.db.transaction():
            self.db.execute(LOCK, self.run)
            if self.db.execute("SELECT to_regclass('telemetry')").fetchone() == (None,):
                self.db.execute(CREATE)
            (last_seq,) = self.db.execute(LAST_SEQ, self.run).fetchone()
        info = self.db.info
        return Opened(destination=f"{info.host}:{info.port}/{info.dbname}", last_seq=last_seq)

    @hookimpl
    @postgres_errors("DataError")  # a value that PostgreSQL cannot store
    def sink_write(self, records):
        with self.db.pipeline(), self.db.transaction(), self.db.cursor() as cursor:
            cursor.execute(LOCK, self.run)
            for record in records:
                if isinstance(record, RunUpdate):
                    self.units = {name: metric.unit for name, metric in record.metrics.items()} | self.units
                elif isinstance(record, Resumed):
                    cursor.execute(SUPERSEDE, self.run | {"seq": record.seq, "step": record.step})
                elif isinstance(record, Scalars):
                    row = self.run | {"seq": record.seq, "time": record.time, "step": record.step}
                    for name, value in record.items():
                        cursor.execute(UPSERT, row | {"name": name, "value": value, "unit": self.units.get(name, "1")})
        return records[-1].seq if records else None

    @hookimpl
    def sink_close(self, status):
        self.db.close()
