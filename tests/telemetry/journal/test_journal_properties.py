"""Any journal can be read and displayed, whatever its content, and its text never controls the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import zlib
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry import read_run
from telemetry.cli import main
from telemetry.display.plot_layout import plots

NUMBERS = st.sampled_from([0, 1, 2, 7, 300, 10**9, 2**53, 2**62 - 1])
NAMES = st.sampled_from(["train", "val", "a/b", "val/loss", "loss", "\x1b[2J", "\x9b", "$\\frac{", "_x"]) | st.text(
    min_size=1, max_size=12
)
VALUES = st.floats().map(lambda value: value if abs(value) < math.inf else repr(value).replace("inf", "Infinity"))
VALUES |= st.sampled_from(["NaN", 0, 1, 10**300, 5e-324, 1.7e308])
METRICS = st.dictionaries(NAMES, st.fixed_dictionaries({"unit": NAMES, "label": NAMES}), max_size=3)
BROKEN = st.sampled_from([None, -1, 2**62, 2**64, "odd", [], {"x": None}])


def record(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), "time": NUMBERS, **fields})


RECORDS = (
    record("scalars", stream=NAMES, step=NUMBERS, values=st.dictionaries(NAMES, VALUES, max_size=3))
    | record("alert", step=NUMBERS, title=NAMES, text=NAMES)
    | record("resumed", step=NUMBERS, attempt=st.just(2))
    | record("closed", status=st.sampled_from(["finished", "killed"]))
    | record("new")
)
HEADS = record(
    "run",
    run_id=NAMES,
    name=NAMES,
    metrics=METRICS,
    started=NUMBERS,
    schema=st.just(1),
    attempt=st.just(1),
    every=st.just(1),
)
# Each is a record, the replacement of one of its fields (if any), and the offset of its number.
LINES = st.tuples(RECORDS, st.none() | st.tuples(st.integers(0, 9), BROKEN), st.sampled_from([0] * 9 + [1, -1, 10**9]))
SEGMENTS = st.tuples(HEADS, st.lists(LINES | st.binary(max_size=20), max_size=10))


def segment(number: int, head: dict[str, Any], lines: list[Any]) -> bytes:
    out = sealed(head | {"seq": number * 10**9})
    for seq, line in enumerate(lines, number * 10**9 + 1):
        if isinstance(line, bytes):
            out += line + b"\n"
            continue
        fields, broken, off = line
        fields = fields | {"seq": seq + off}
        if broken is not None:
            fields[list(fields)[broken[0] % len(fields)]] = broken[1]
        out += sealed(fields)
    return out


def sealed(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields)[:-1].encode()
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code in {0, 2}, (result.output, result.exception)
    return result


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SEGMENTS, min_size=1, max_size=3))
def test_any_journal_can_be_read_and_displayed(segments: list[tuple[dict[str, Any], list[Any]]]) -> None:
    with tempfile.TemporaryDirectory() as runs:
        folder = Path(runs) / "run"
        folder.mkdir()
        for number, (head, lines) in enumerate(segments):
            (folder / f"journal-{number}.jsonl").write_bytes(segment(number, head, lines))
        for args in (("list", runs), ("show", folder), ("show", folder, "--metric", "*"), ("status", folder)):
            assert not set(run(*args).output) & set("\x1b\x9b\x07\r\x00")
        read = read_run(folder)
        rows = list(csv.reader(io.StringIO(run("export", folder).stdout_bytes.decode(), newline="")))
        assert len(rows) - 1 == sum(map(len, read.curves.values()))
        assert {len(row) for row in rows} == {8}
        assert sum(len(plot.series) for plot in plots([read])) == len(read.curves)
