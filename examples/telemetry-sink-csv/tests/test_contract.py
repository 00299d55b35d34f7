"""Run the sink contract tests of telemetry on the CSV sink."""

import csv
from contextlib import contextmanager

from telemetry_sink_csv import CsvSink

from telemetry.testing import Point, SinkContract


class TestCsv(SinkContract):
    rewinds = "kept"  # superseded rows stay in an append-only file

    def make_sink(self, folder):
        return CsvSink(CsvSink.Options())

    def read_back(self, folder):
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield Point(row["name"], int(row["step"]), float(row["value"]), int(row["time"]), row["unit"])

    def make_elsewhere(self, folder):
        return CsvSink(CsvSink.Options(file="other.csv"))

    def outages(self, folder):
        return [folder_in_place_of(folder / "metrics.csv")]


@contextmanager
def folder_in_place_of(path):
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        aside.rename(path)
