"""YAML becomes plain values within bounds, or is rejected in one line, quickly."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.yaml_text import MAX_BYTES, dump, parse, read_text
from aimnet2mult.errors import ConfigError

DOUBLING = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])
CHAIN = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150))])
MERGING = "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))])

REJECTED = {
    "aliases that double": (DOUBLING, "more than 20,000 keys and values"),
    "merges that double": (MERGING, "more than 20,000 keys and values"),
    "a list that contains itself": ("a: &a [*a]", "contains itself"),
    "100,000 lists in each other": ("a: " + "[" * 100_000, "nested more than 50 deep"),
    "100,000 mappings in each other": ("{a: " * 100_000, "nested more than 50 deep"),
    "500,000 items in each other": ("- " * 500_000, "nested more than 50 deep"),
    "aliases in each other": (CHAIN, "nested more than 50 deep"),
    "51 levels": ("[" * 51 + "]" * 51, "line 1: the values are nested more than 50 deep"),
    "an integer of 5,000 digits": ("a: " + "1" * 5_000, "line 1: 1+ is not an integer of up to 64 bits"),
    "a hexadecimal integer of 5,000 digits": ("a: 0x" + "f" * 5_000, "is not an integer of up to 64 bits"),
    "an integer of 65 bits": (f"a: {1 << 64}", "18446744073709551616 is not an integer of up to 64 bits"),
    "a huge time of the day": ("a: 1" + ":1" * 5_000 + ".5", "too large"),
    "digits that are none": ("a: 0x_", "invalid literal"),
    "a Python object": ("a: !!python/object/apply:os.system [id]", "tag 'tag:.*:os.system' is not allowed in settings"),
    "a Python name": ("a: !!python/name:os.system", "is not allowed in settings"),
    "a path": ("a: !!python/object/apply:pathlib.Path [x]", "is not allowed in settings"),
    "another tag": ("a: !x 3", "line 1: the tag '!x' is not allowed in settings"),
    "bytes": ("a: !!binary aGk=", "is not allowed in settings"),
    "a set": ("a: !!set {x}", "is not allowed in settings"),
    "a wrong truth value": ("a: !!bool x", "x"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: found duplicate key 'a'"),
    "an index twice": ("1: a\n'1': b", "line 2: found duplicate key '1'"),
    "a null key": ("null: 1", "a key is 'null': expected text or an integer"),
    "a truth value as key": ("true: 1", "expected text or an integer"),
    "a number as key": ("1.5: 1", "expected text or an integer"),
    "a list as key": ("? [1]\n: 2", "a key is a list or mapping"),
    "a key with a line break": ('"a\\nb": 1', r"a key is 'a\\nb': expected up to 250 printable characters"),
    "a long key": (f"? {'a' * 251}\n: 1", "expected up to 250 printable characters"),
    "an escape sequence": ('a: "\\e[31m"', "line 1: the text contains the control character U\\+001B"),
    "an escaped NUL": ('a: "\\0"', "control character U\\+0000"),
    "half a character": ('a: "\\ud800"', "control character U\\+D800"),
    "an unknown alias": ("a: *b", "found undefined alias 'b'"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: but found another document"),
    "tabs": ("a:\n\tb: 1", "line 2: found character '.t' that cannot start any token"),
}


@pytest.mark.parametrize(("text", "message"), REJECTED.values(), ids=REJECTED)
def test_anything_but_plain_values_within_bounds_is_rejected_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert time.process_time() - start < 20
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff", "it is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "it is not UTF-8 text"),
        (b"a: 1\0", "#x0000"),
        (b"\x89HDF\r\n\x1a\n", "it is not UTF-8 text"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "it is larger than 1 MB"),
        (b"a", "contains a str; expected keys and values"),
        (b"[]", "contains a list; expected keys and values"),
    ],
)
def test_a_file_that_is_not_text_or_too_large_is_rejected_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(tmp_path / "c.yaml")
    (line,) = str(caught.value).splitlines()
    assert str(tmp_path / "c.yaml") in line


def test_a_named_pipe_is_rejected_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*c\.yaml: it is not a regular file"):
        read_yaml(tmp_path / "c.yaml")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_yaml(tmp_path / "c.yaml") == {"seed": 1}


def test_plain_values_have_the_types_of_settings() -> None:
    text = "[1e-3, 1.5E3, .5e-3, 1., 010, 0x1F, 2026-01-02, =, yes, ~, 'yes', 1e, e1, -.inf, 1_000]"
    assert parse(text) == [
        *(1e-3, 1500.0, 5e-4, 1.0, 8, 31, "2026-01-02", "=", True, None, "yes", "1e", "e1", float("-inf"), 1000),
    ]
    assert parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    "value",
    [
        *("1e5", "1e-3", ".5e-3", "010", "1:30", "true", "yes", "null", "~", "2026-01-02", "=", "<<", "", "-"),
        *("a\nb", "\ttab", "'", '"', " x ", "#", "a: b", "%", "@a", "é", "\u2028", "${x}", "{{x}}", "!x", "&a", "*a"),
        *(5, 1e-10, 1e22, float("inf"), None, True, [], {}, [[1, [2]]], {"1": 2, 3: 4}),
    ],
)
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse(dump({"a": [value, {"b": value}]})) == {"a": [value, {"b": value}]}


def test_settings_may_come_from_a_pipe_of_the_shell() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write("seed: 3")
    try:
        assert read_text(Path(f"/dev/fd/{reading}")) == "seed: 3"
    finally:
        os.close(reading)
