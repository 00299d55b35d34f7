"""A sink for telemetry that appends to a CSV file: seq, time (ms since 1970), step, name, value, unit."""

import csv
import io
import os
from dataclasses import dataclass

from telemetry import Opened, Scalars, backend_errors, hookimpl


class CsvSink:
    requires = ()  # modules that must be installed; they are imported in sink_open, not before

    @dataclass
    class Options:
        path: str = "metrics.csv"  # a relative path starts at the run folder

    def __init__(self, options):
        self.options = options

    @hookimpl
    @backend_errors("csv")
    def sink_open(self, run, folder):
        self.units = {name: metric.unit for name, metric in run.metrics.items()}
        self.path = (folder / self.options.path).absolute()
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n\n") + 2] if b"\n\n" in data else b""  # an empty line ends a batch
        if whole != data:
            os.truncate(self.path, len(whole))  # a batch that a kill or a full disk has cut off comes again
        self.held = max((int(row[0]) for row in csv.reader(whole.decode().splitlines()) if row), default=0)
        return Opened(destination=str(self.path), last_seq=self.held)

    @hookimpl
    @backend_errors("csv")
    def sink_write(self, records):
        text = io.StringIO()
        for record in records:
            if isinstance(record, Scalars) and record.seq > self.held:
                start = record.seq, record.time, record.step
                rows = [(*start, name, value, self.units.get(name, "1")) for name, value in record.items()]
                csv.writer(text, lineterminator="\n").writerows(rows)
        if text.getvalue():
            with self.path.open("ab") as file:
                file.write(text.getvalue().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.held = max([self.held, *(record.seq for record in records)])
        return self.held

    @hookimpl
    def sink_close(self, status):
        """Nothing stays open between two calls."""
