"""A sink for telemetry that writes a CSV file into the run folder, a row for each value."""

import csv
import io
import os
import re
from dataclasses import dataclass

from telemetry import Opened, Scalars, SettingError, SinkRejected, backend_errors, hookimpl

HEADER = b"seq,time,step,name,value,unit\n\n"  # an empty line ends each batch; CSV readers pass over it


class CsvSink:
    requires = ()  # modules that must be installed; they are imported in sink_open, not before

    @dataclass
    class Options:
        file: str = "metrics.csv"

    def __init__(self, options):
        if not re.fullmatch(r"[\w.-]+\.csv", options.file):
            msg = f"telemetry.csv.file is {options.file!r}; give a name as metrics.csv: it is made in the run folder"
            raise SettingError(msg)
        self.options = options

    @hookimpl
    @backend_errors("csv")
    def sink_open(self, run, folder):
        self.units = {name: metric.unit for name, metric in run.metrics.items()}
        self.path = folder.absolute() / self.options.file
        data = self.path.read_bytes() if self.path.exists() else b""
        if data[: len(HEADER)] != HEADER[: len(data)]:
            msg = f"{self.path} is not of this sink; give telemetry.csv.file another name"
            raise SinkRejected(msg)
        whole = b"".join(data.rpartition(b"\n\n")[:2])
        if whole:
            os.truncate(self.path, len(whole))  # what a kill or a full disk has cut off comes again
        else:
            self.path.write_bytes(HEADER)
        rows = csv.DictReader(io.StringIO((whole or HEADER).decode(), newline=""))
        self.held = max((int(row["seq"]) for row in rows), default=0)
        return Opened(destination=str(self.path), last_seq=self.held)

    @hookimpl
    @backend_errors("csv")
    def sink_write(self, records):
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        for record in records:
            if isinstance(record, Scalars) and record.seq > self.held:
                for name, value in record.items():
                    rows.writerow([record.seq, record.time, record.step, name, value, self.units.get(name, "1")])
        if text.getvalue():
            with self.path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.held = max([self.held, *(record.seq for record in records)])
        return self.held

    @hookimpl
    def sink_close(self, status):
        """Nothing stays open between two calls."""
