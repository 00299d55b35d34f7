"""Records and their lines."""

from __future__ import annotations

import json
import math
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.segment_files import run_record, scalars, sealed
from telemetry.journal.codec import MAX_LINE, Unknown, decode, encode
from telemetry.metrics import Metric
from telemetry.records import SEQ_PER_SEGMENT, Alert, AnyRecord, Closed, Resumed, RunRecord, Scalars

SAMPLES: list[AnyRecord] = [
    run_record(
        3, metrics={"train/E": Metric(unit="kcal/mol", source_unit="eV/particle", label="E")}, params={"a": [1]}
    ),
    scalars(17, 3400),
    Scalars(seq=18, time=1, stream="val", step=0, values={"Å": math.nan, "b": -math.inf, "c": math.inf, "d": 0.1}),
    Resumed(seq=SEQ_PER_SEGMENT + 1, time=2, step=0, attempt=2),
    Closed(seq=19, time=3, status="preempted", reason='a "reason"\n\\ with \u2028 in it'),
]

counts = st.integers(0, (1 << 62) - 1)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=250)
floats = st.floats(width=64)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.mark.parametrize("record", SAMPLES, ids=lambda r: type(r).__name__)
def test_a_line_is_one_json_object_that_ends_with_its_crc(record: AnyRecord) -> None:
    line = encode(record)
    body, comma, crc = line.rpartition(b',"crc":')
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert comma
    assert crc == b'"%08x"}\n' % zlib.crc32(body)
    plain = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert plain["seq"] == record.seq
    assert plain["kind"] in {"run", "scalars", "resumed", "closed"}


def test_nan_and_infinities_are_strings_and_read_back() -> None:
    line = encode(SAMPLES[2])
    assert json.loads(line)["values"] == {"Å": "NaN", "b": "-Infinity", "c": "Infinity", "d": 0.1}
    read = decode(line)
    assert isinstance(read, Scalars)
    assert math.isnan(read.values["Å"])
    assert (read.values["b"], read.values["c"], read.values["d"]) == (-math.inf, math.inf, 0.1)


@pytest.mark.parametrize("value", [5e-324, -5e-324, 1.7976931348623157e308, -0.0, 0.1, 2.0**53 + 2, 1e22, 1e23])
@pytest.mark.parametrize("beside", [1.0, math.nan])
def test_huge_denormal_and_signed_zero_values_are_read_back_exactly(value: float, beside: float) -> None:
    read = decode(encode(Scalars(seq=1, time=1, stream="t", step=1, values={"x": value, "y": beside})))
    assert isinstance(read, Scalars)
    assert bits(read.values["x"]) == bits(value)


@given(st.dictionaries(names, floats, max_size=6), names, counts, counts, counts)
@settings(deadline=None, max_examples=100)
def test_scalars_are_read_back_unchanged(values: dict[str, float], stream: str, seq: int, time: int, step: int) -> None:
    record = Scalars(seq=seq, time=time, stream=stream, step=step, values=values)
    line = encode(record)
    read = decode(line)
    assert line.count(b"\n") == 1
    assert isinstance(read, Scalars)
    assert (read.seq, read.time, read.stream, read.step) == (seq, time, stream, step)
    assert list(read.values) == list(values)
    for name, value in values.items():
        same = math.isnan(read.values[name]) if math.isnan(value) else bits(read.values[name]) == bits(value)
        assert same, name


jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        RunRecord,
        seq=counts,
        time=counts,
        schema=st.just(1),
        run_id=names,
        name=names,
        attempt=st.integers(1, SEQ_PER_SEGMENT - 1),
        every=st.integers(1, 10**6),
        started=counts,
        params=st.dictionaries(names, jsons, max_size=3),
        host=st.text(st.characters(codec="utf-8"), max_size=60),
    )
    | st.builds(Resumed, seq=counts, time=counts, step=counts, attempt=st.integers(2, 10**6))
    | st.builds(
        Alert,
        seq=counts,
        time=counts,
        step=counts,
        title=names,
        text=st.text(st.characters(codec="utf-8"), max_size=60),
        level=st.sampled_from(["info", "warning", "error"]),
    )
    | st.builds(
        Closed,
        seq=counts,
        time=counts,
        status=st.sampled_from(["finished", "failed", "preempted", "killed"]),
        reason=st.text(st.characters(codec="utf-8"), max_size=60),
    )
)
@settings(deadline=None, max_examples=100)
def test_every_other_record_is_read_back_unchanged(record: AnyRecord) -> None:
    assert decode(encode(record)) == record


@pytest.mark.parametrize("record", SAMPLES, ids=lambda r: type(r).__name__)
def test_a_flipped_bit_anywhere_makes_a_line_damaged(record: AnyRecord) -> None:
    line = encode(record)
    for at in range(len(line)):
        for bit in range(8):
            flipped = bytearray(line)
            flipped[at] ^= 1 << bit
            assert decode(bytes(flipped)) is None, (at, bit)


@pytest.mark.parametrize("record", SAMPLES, ids=lambda r: type(r).__name__)
def test_a_line_truncated_at_either_end_is_damaged(record: AnyRecord) -> None:
    line = encode(record)
    for cut in range(len(line)):
        assert decode(line[:cut]) is None, cut
        assert cut == 0 or decode(line[cut:]) is None, cut


def test_a_record_of_an_unknown_kind_keeps_its_number() -> None:
    line = sealed(b'{"kind":"event","seq":41,"text":{"deeply":["unknown",1e999]}')
    assert decode(line) == Unknown(kind="event", seq=41)


def test_fields_of_later_versions_are_ignored() -> None:
    line = sealed(b'{"kind":"closed","seq":4,"time":1,"mood":[],"status":"finished"')
    assert decode(line) == Closed(seq=4, time=1, status="finished")


def test_a_line_of_the_maximum_length_is_written_and_read_and_a_longer_one_rejected() -> None:
    bare = len(encode(run_record(params={"p": ""})))
    full = run_record(params={"p": "x" * (MAX_LINE - bare)})
    line = encode(full)
    assert len(line) == MAX_LINE
    assert decode(line) == full
    with pytest.raises(ValueError, match=f"a RunRecord record of {MAX_LINE + 1} bytes"):
        encode(run_record(params={"p": "x" * (MAX_LINE - bare + 1)}))


def test_a_longer_line_is_damaged_even_with_a_correct_checksum() -> None:
    body = encode(run_record()).rpartition(b',"crc":')[0]
    bare = len(sealed(body + b',"more":""'))
    for excess in (0, 1, MAX_LINE):
        line = sealed(body + b',"more":"' + b"x" * (MAX_LINE - bare + excess) + b'"')
        assert (decode(line) is None) == (excess > 0)


SCALARS = b'{"kind":"scalars","seq":1,"time":1,"stream":"a","step":1,"values":{"x":%b}'
RUN = b'{"kind":"run","seq":1,"time":1,"schema":1,"run_id":"a","name":"a","attempt":1,"every":1,"started":1,"params":%b'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\x00",
        b"null",
        b'["kind"',
        b'{"kind":1,"seq":1',
        b'{"kind":"event","seq":-1',
        b'{"kind":"event","seq":1.5',
        b'{"kind":"event"',
        b'{"kind":"event","seq":1,"deep":' + b"[" * 200_000 + b"]" * 200_000,
        b'{"kind":"scalars","kind":"run","seq":1,"seq":2,"time":1,"stream":"a","step":1,"values":{"x":1}',
        b'{"kind":"closed","seq":1,"time":1,"status":"finished","reason":"\xff\xfe"',
        b'{"kind":"closed","seq":1,"time":1,"status":"finished","reason":"\x00"',
        b'{"kind":"closed","seq":1,"time":1,"status":"finished","reason":"\\ud800"',
        b'{"kind":"closed","seq":1,"time":1,"status":"done"',
        b'{"kind":"resumed","seq":1,"time":1,"step":-1,"attempt":2',
        b'{"kind":"resumed","seq":' + b"9" * 5000 + b',"time":1,"step":1,"attempt":2',
        b'{"kind":"resumed","seq":%d,"time":1,"step":1,"attempt":2' % (1 << 62),
        SCALARS % b"1e999",
        SCALARS % (b"9" * 5000),
        SCALARS % b"NaN",
        SCALARS % b"null",
        SCALARS % b"true",
        SCALARS % b'"1.5"',
        SCALARS % b'"infinity"',
        SCALARS % b"[1]",
        SCALARS.replace(b'"x"', b'""') % b"1",
        SCALARS.replace(b'"step":1,', b"") % b"1",
        RUN % b'{"x":%b}' % (b"9" * 5000),
        RUN % (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        RUN % b'{"x":1},"sinks":{"../../etc/passwd":{}}',
        RUN % b'{"x":1},"sinks":{"a/b":{}}',
        RUN % b'{"x":1},"sinks":{"":{}}',
        RUN % b'{"x":1},"sinks":{"..":{}}',
    ],
    ids=lambda body: body[:60].decode("latin-1") + f"… ({len(body)})",
)
def test_hostile_json_with_a_correct_checksum_is_damaged(body: bytes) -> None:
    assert decode(sealed(body)) is None


def test_of_duplicate_values_the_last_one_counts() -> None:
    read = decode(sealed(SCALARS % b'1,"x":2'))
    assert isinstance(read, Scalars)
    assert read.values == {"x": 2.0}


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_decoding_arbitrary_bytes_never_raises(body: bytes) -> None:
    decode(body)
    decode(sealed(body))


@given(st.sampled_from(SAMPLES), st.data())
@settings(deadline=None, max_examples=100)
def test_decoding_any_change_of_a_body_with_a_correct_checksum_never_raises(
    record: AnyRecord, data: st.DataObject
) -> None:
    body = bytearray(encode(record).rpartition(b',"crc":')[0])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decode(sealed(bytes(body)))


def test_full_names_consist_of_stream_and_metric() -> None:
    record = Scalars(seq=1, time=1, stream="val", step=1, values={"fid1/E_mae": 2.0, "loss": 1.0})
    assert record.names() == ["val/fid1/E_mae", "val/loss"]
    assert record.items() == [("val/fid1/E_mae", 2.0), ("val/loss", 1.0)]


def test_a_line_beyond_the_maximum_is_damaged_even_if_its_checksum_fits() -> None:
    room = MAX_LINE - len(sealed(b""))
    unknown = b'{"kind":"later","seq":5,"text":"%s"'
    room -= len(unknown % b"")
    longest, too_long = (sealed(unknown % (b"x" * length)) for length in (room, room + 1))
    assert len(longest) == MAX_LINE
    assert decode(longest) == Unknown(kind="later", seq=5)
    assert decode(too_long) is None
