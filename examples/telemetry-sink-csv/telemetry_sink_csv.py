"""A telemetry sink that writes a CSV file into the run folder, one row per value."""

import csv
import io
import os
import re
from dataclasses import dataclass

from telemetry.sink_api import Opened, RunUpdate, Scalars, SettingError, SinkRejected, backend_errors, hookimpl

HEADER = b"seq,time,step,name,value,unit\n\n"  # an empty line ends each batch; CSV readers skip it


class CsvSink:
    requires = ()  # required modules; import them in sink_open, not before

    @dataclass
    class Options:
        file: str = "metrics.csv"

    def __init__(self, options):
        if not re.fullmatch(r"[\w.-]+\.csv", options.file):
            msg = f"telemetry.csv.file is {options.file!r}; expected a file name such as metrics.csv"
            raise SettingError(msg)
        self.options = options

    @hookimpl
    @backend_errors("csv")
    def sink_open(self, run, folder):
        self.units = {name: metric.unit for name, metric in run.metrics.items()}
        self.path = folder.absolute() / self.options.file
        data = self.path.read_bytes() if self.path.exists() else b""
        if data[: len(HEADER)] != HEADER[: len(data)]:
            msg = f"{self.path} was not written by this sink; set telemetry.csv.file to another name"
            raise SinkRejected(msg)
        whole = b"".join(data.rpartition(b"\n\n")[:2])
        if whole:
            os.truncate(self.path, len(whole))  # a batch cut off by a kill or a full disk is delivered again
        else:
            self.path.write_bytes(HEADER)
        rows = csv.DictReader(io.StringIO((whole or HEADER).decode(), newline=""))
        self.last_seq = max((int(row["seq"]) for row in rows), default=0)
        return Opened(destination=str(self.path), last_seq=self.last_seq)

    @hookimpl
    @backend_errors("csv")
    def sink_write(self, records):
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        for record in records:
            if isinstance(record, RunUpdate):  # metrics that have first appeared
                self.units |= {name: metric.unit for name, metric in record.metrics.items()}
            if isinstance(record, Scalars) and record.seq > self.last_seq:
                for name, value in record.items():
                    rows.writerow([record.seq, record.time, record.step, name, value, self.units.get(name, "1")])
        if text.getvalue():
            with self.path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.last_seq = max([self.last_seq, *(record.seq for record in records)])
        return self.last_seq

    @hookimpl
    def sink_close(self, status):
        """Do nothing: no file stays open between calls."""
