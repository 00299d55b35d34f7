"""The contract of telemetry's sinks."""

import csv

from telemetry_sink_csv import CsvSink

from telemetry.testing import Point, SinkContract


class TestCsv(SinkContract):
    rewinds = "kept"  # a file that is only appended to keeps what a later attempt supersedes

    def make_sink(self, folder):
        return CsvSink(CsvSink.Options())

    def read_back(self, folder):
        path = folder / "metrics.csv"
        if not path.exists():
            return []
        rows = csv.reader(path.read_text().splitlines())
        return [Point(row[3], int(row[2]), float(row[4]), int(row[1]), row[5]) for row in rows if row]
