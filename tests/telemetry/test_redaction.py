"""Credentials are kept out of the journal."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.segment_files import run_record
from telemetry.journal.codec import decode, encode
from telemetry.records import RunRecord
from telemetry.redaction import REDACTED, credentials_in, is_redacted, redact, redact_text

CREDENTIALS = [
    "api_key",
    "API-KEY",
    "wandb_api_key",
    "apikey",
    "access_key",
    "aws_secret_access_key",
    "private_key",
    "token",
    "hf_token",
    "password",
    "passwd",
    "PASSPHRASE",
    "client_secret",
    "credentials",
    "Authorization",
    "apiKey",
    "APIKey",
    "wandbApiKey",
    "accessToken",
    "auth-token",
    "authtoken",
    "api_tokens",
    "token2",
    "db_password",
    "dbpassword",
    "password_hash",
    "mlflow.tracking_password",
    "clientSecrets",
    "pwd",
    "db_pwd",
    "DB_PASS",
    "bearer",
    "cookie",
    "Set-Cookie",
    "ssh_key",
    "storageAccountKey",
    "X-Amz-Credential",
]
ORDINARY = [
    "bos_token_id",
    "eos_token",
    "mask_token",
    "tokenId",
    "max_tokens",
    "n_tokens",
    "tokens_per_batch",
    "tokenizer",
    "key",
    "keys",
    "monkey",
    "secretary",
    "passes",
    "compass",
    "access",
    "pass_through",
    "n_pass",
    "first_pass",
    "author",
    "authors",
    "n_auth",
    "auth_steps",
    "loss_per_token",
    "max_token",
    "signature",
    "sigma",
    "key_dim",
    "cookies_per_batch",
]


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("value", ["hunter2", 12345, 1.5, ["hunter2"], {"value": "hunter2", "n": [{"x": "hunter2"}]}])
def test_values_named_like_credentials_are_redacted_at_any_depth(name: str, value: Any) -> None:
    written = json.dumps(redact({"outer": {name: value}}))
    assert "hunter2" not in written
    assert "12345" not in written
    assert "1.5" not in written
    assert REDACTED in written
    assert name in written


def test_of_a_login_only_the_parts_named_like_credentials_are_redacted() -> None:
    assert redact({"auth": "me:hunter2", "basic_auth": ["me", "hunter2"]}) == {"auth": "***", "basic_auth": ["***"] * 2}
    login = {"user": "me", "password": "hunter2"}
    assert redact({"auth": login}) == {"auth": {"user": "me", "password": "***"}}


@pytest.mark.parametrize("name", ORDINARY)
def test_names_that_only_contain_such_words_are_not_redacted(name: str) -> None:
    assert redact({"outer": {name: "shown", "list": [{name: -7}]}}) == {"outer": {name: "shown", "list": [{name: -7}]}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/api?user=me&token=hunter2&n=1", "https://host/api?user=me&token=***&n=1"),
        ("postgresql://db/x?passwd=hunter2#top", "postgresql://db/x?passwd=***#top"),
        ("https://host/api?max_tokens=5", "https://host/api?max_tokens=5"),
        ("url: /api?token=hunter2 (refused)", "url: /api?token=*** (refused)"),
        ("https://me:hunter2@host/path", "https://***@host/path"),
        ("https://hunter2@host", "https://***@host"),
        ("postgresql+psycopg2://me:hun@ter2@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("see https://a:hunter2@b/c and https://d:hunter2@e", "see https://***@b/c and https://***@e"),
        ("https://host/path", "https://host/path"),
        ("https://host/a@b", "https://host/a@b"),
        ("me@host:/path", "me@host:/path"),
        ("/data/water.h5", "/data/water.h5"),
    ],
)
def test_a_login_in_a_url_is_redacted(text: str, expected: str) -> None:
    assert redact({"uri": text, "more": [text]}) == {"uri": expected, "more": [expected]}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"password": "hunter2", "port": 5000}, {"hunter2"}),
        ({"auth": [{"user": "me"}, {"token": 12345}]}, {"12345"}),
        (["https://me:hun@ter2@host/x?n=1&token=t0k3n"], {"me:hun@ter2", "hun@ter2", "t0k3n"}),
        ("https://k3y-1234@host", {"k3y-1234"}),
        ({"token": None, "use_token": True, "uri": "https://host/?n=1", "n": 3}, set()),
    ],
    ids=["mapping", "nested", "URL", "login without a password", "none"],
)
def test_what_is_redacted_in_options_is_removed_from_texts_too(value: Any, found: set[str]) -> None:
    assert credentials_in(value) == found
    message = f"cannot log in with {sorted(found)} as user me, port 5000"
    shown = redact_text(message, credentials_in(value))
    assert not [each for each in found if each in shown]
    assert shown.endswith("as user me, port 5000")
    redacted = redact(value)
    assert is_redacted(redacted) == bool(found)
    assert not is_redacted(value)


def test_a_credential_that_contains_another_is_removed_as_a_whole() -> None:
    assert redact_text("hunter2-and-more, hunter2", ["hunter2", "hunter2-and-more"]) == "***, ***"


def test_short_credentials_which_are_parts_of_words_stay_in_texts() -> None:
    assert redact_text("a cat, a goat, and a cat", ["cat", "goat"]) == "a cat, a ***, and a cat"


def test_everything_else_keeps_its_order_and_type() -> None:
    params = {"b": {"lr": 1e-3, "epochs": 5, "amp": True, "note": None}, "a": [1, "x", [2.5]], "key": "E", "keys": 3}
    assert redact(params) == params
    assert list(redact(params)) == ["b", "a", "key", "keys"]
    assert redact({"use_token": True, "token": None}) == {"use_token": True, "token": None}


def test_the_argument_is_not_modified() -> None:
    params = {"token": "x", "inner": {"password": "y"}}
    redact(params)
    assert params == {"token": "x", "inner": {"password": "y"}}


class Mode(enum.IntEnum):
    FAST = 3


def test_values_that_json_cannot_represent_become_strings() -> None:
    numpy = pytest.importorskip("numpy")
    params = {
        "nan": math.nan,
        "inf": -math.inf,
        "big": 2**70,
        "bigger": 10**400,
        "small": -(2**63) - 1,
        "smallest": -(2**63),
        "negative": -3,
        "path": Path("/data"),
        "set": {1},
        "enum": Mode.FAST,
        "float64": numpy.float64(0.1),
        "float32": numpy.float32(0.5),
        "int64": numpy.int64(7),
        "np_nan": numpy.float64("nan"),
        7: "a name that is a number",
        "tuple": (1, 2),
    }
    expected = {
        "nan": "nan",
        "inf": "-inf",
        "big": str(2**70),
        "bigger": str(10**400),
        "small": str(-(2**63) - 1),
        "smallest": -(2**63),
        "negative": -3,
        "path": "/data",
        "set": "{1}",
        "enum": 3,
        "float64": 0.1,
        "float32": 0.5,
        "int64": 7,
        "np_nan": "nan",
        "7": "a name that is a number",
        "tuple": [1, 2],
    }
    clean = redact(params)
    assert clean == expected
    read = decode(encode(run_record(params=clean)))
    assert isinstance(read, RunRecord)
    assert read.params == expected


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.complex_numbers()
    | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), anything, max_size=4))
@settings(deadline=None, max_examples=60)
def test_parameters_of_any_kind_can_be_written_and_read_back(params: dict[str, Any]) -> None:
    clean = redact(params)
    read = decode(encode(run_record(params=clean)))
    assert isinstance(read, RunRecord)
    assert read.params == clean
