"""The ``telemetry`` section of a configuration."""

from __future__ import annotations

import copy
import math
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from telemetry import SettingError, Settings, TelemetryError
from telemetry import settings as settings_module
from telemetry.settings import parse_sinks


@pytest.fixture(autouse=True)
def two_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that exactly two sinks are installed."""
    sinks: dict[str, list[EntryPoint]] = {"tensorboard": [], "wandb": []}
    monkeypatch.setattr(settings_module, "installed", lambda: sinks)


def test_an_empty_section_gives_the_defaults() -> None:
    assert Settings.parse({}) == Settings() == Settings(sinks=("tensorboard",), every=200, dir="runs")
    assert Settings().delivery == "process"


def test_settings_and_sink_options_share_one_section() -> None:
    read = Settings.parse(
        {
            "every": 50,
            "dir": "/scratch",
            "poll": 1,
            "delivery": "thread",
            "wandb": {"mode": "offline"},
            "tensorboard": None,
        }
    )
    assert (read.every, read.dir, read.poll, read.delivery) == (50, "/scratch", 1.0, "thread")
    assert read.options == {"wandb": {"mode": "offline"}, "tensorboard": {}}


def test_options_are_copied() -> None:
    options = {"mode": "offline"}
    read = Settings.parse({"wandb": options})
    options["mode"] = "online"
    assert read.options == {"wandb": {"mode": "offline"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("wandb,tensorboard", ("wandb", "tensorboard")),
        (" wandb , tensorboard ,", ("wandb", "tensorboard")),
        (["wandb", "tensorboard"], ("wandb", "tensorboard")),
        (("wandb",), ("wandb",)),
        (["wandb "], ("wandb",)),
        ("none", ()),
        (["none"], ()),
        ([], ()),
    ],
)
def test_sinks_are_a_list_or_a_comma_separated_string_or_none(given: Any, expected: tuple[str, ...]) -> None:
    assert parse_sinks(given) == expected
    assert Settings.parse({"sinks": given}).sinks == expected


@pytest.mark.parametrize(
    "given", ["", " , ", ["", " "], "none,wandb", ["wandb", "none"], 5, None, [1], {"wandb": 1}, True]
)
def test_other_values_of_sinks_are_rejected(given: Any) -> None:
    with pytest.raises(SettingError, match=r"^telemetry\.sinks is ") as raised:
        Settings.parse({"sinks": given})
    assert repr(given) in str(raised.value)
    assert "none" in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("every", 0, "at least 1"),
        ("every", -200, "at least 1"),
        ("every", "200", "expected an integer of at least 1"),
        ("every", True, "expected an integer of at least 1"),
        ("every", 1.5, "expected an integer of at least 1"),
        ("every", 200.0, "expected an integer of at least 1"),
        ("every", None, "expected an integer of at least 1"),
        ("every", [200], "expected an integer of at least 1"),
        ("dir", 3, "expected a text"),
        ("dir", None, "expected a text"),
        ("delivery", "proces", "one of process, thread"),
        ("delivery", True, "one of process, thread"),
        ("delivery", None, "one of process, thread"),
        ("poll", 0, "expected a number above 0, at most 1e+09"),
        ("poll", -1.5, "expected a number above 0, at most 1e+09"),
        ("poll", "2", "expected a number above 0"),
        ("poll", True, "expected a number above 0"),
        ("poll", math.nan, "expected a number above 0, at most 1e+09"),
        ("hook_timeout", 0, "expected a number above 0, at most 1e+09"),
        ("drain_timeout", math.inf, "at most 1e+09"),
        ("linger", -math.inf, "expected a number above 0, at most 1e+09"),
        ("linger", 10**30, "at most 1e+09"),
        ("linger", 10**400, "at most 1e+09"),
    ],
)
def test_an_invalid_value_is_rejected_with_name_value_and_valid_alternatives(key: str, value: Any, said: str) -> None:
    with pytest.raises(SettingError) as raised:
        Settings.parse({key: value})
    assert str(raised.value).startswith(f"telemetry.{key} is {value!r}; ")
    assert said in str(raised.value)
    assert isinstance(raised.value, TelemetryError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("watch", "message"),
    [
        ({"factor": "x"}, "telemetry.watch.factor is 'x'; expected a number above 0, at most 1e+09"),
        ({"patience": 0}, "telemetry.watch.patience is 0; expected an integer of at least 1, at most 1000"),
        ({"facto": 1.0}, "unknown key telemetry.watch.facto. Did you mean 'factor'?"),
        (5, "telemetry.watch is 5; expected a mapping"),
    ],
)
def test_invalid_settings_of_a_section_are_explained_in_the_same_words(watch: Any, message: str) -> None:
    with pytest.raises(SettingError) as raised:
        Settings.parse({"watch": watch})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("evry", "every"),
        ("Every", "every"),
        ("hook_time_out", "hook_timeout"),
        ("tensorbord", "tensorboard"),
        ("wandbb", "wandb"),
        ("sink", "sinks"),
    ],
)
def test_an_unknown_key_is_rejected_with_the_closest_valid_one(key: str, near: str) -> None:
    with pytest.raises(SettingError, match=rf"^unknown key telemetry\.{key}; did you mean telemetry\.{near}\?$"):
        Settings.parse({key: 1})


@pytest.mark.parametrize("key", ["zzz", "options", 7, None])
def test_a_key_unlike_any_other_is_rejected_with_all_valid_ones(key: Any) -> None:
    with pytest.raises(SettingError) as raised:
        Settings.parse({key: {}})
    assert str(raised.value) == (
        f"unknown key telemetry.{key}; known keys: sinks, every, events, dir, mode, delivery, poll, "
        "hook_timeout, drain_timeout, linger, blobs_mb, on_divergence, watch, tensorboard, wandb"
    )


@pytest.mark.parametrize("value", [3, "offline", ["mode"], True, {1: 2}])
def test_options_of_a_sink_must_be_a_mapping(value: Any) -> None:
    with pytest.raises(SettingError) as raised:
        Settings.parse({"wandb": value})
    assert str(raised.value) == f"telemetry.wandb is {value!r}; it must be a mapping of options of the sink 'wandb'"


def test_all_problems_are_reported_at_once_a_line_for_each() -> None:
    section: dict[str, Any] = {
        "evry": 5,
        "every": 0,
        "sinks": "none,wandb",
        "wandb": 3,
        "poll": -1,
        "watch": {"facto": 1, "patience": 0, "history": 100},
        "linger": 5,
    }
    before = copy.deepcopy(section)
    with pytest.raises(SettingError) as raised:
        Settings.parse(section)
    lines = str(raised.value).splitlines()
    names = ["evry", "every", "sinks", "wandb", "poll", "watch.facto", "watch.patience"]
    assert sorted(line.split()[0 if line.startswith("telemetry") else 2].rstrip(".;") for line in lines) == sorted(
        f"telemetry.{name}" for name in names
    )
    assert section == before


@pytest.mark.parametrize("section", [None, 3, "tensorboard", ["every"]])
def test_a_section_that_is_not_a_mapping_is_rejected(section: Any) -> None:
    with pytest.raises(SettingError, match=r"^telemetry is .*; it must be a mapping of settings"):
        Settings.parse(section)


def test_settings_constructed_directly_are_validated_too() -> None:
    with pytest.raises(ValueError, match=r"telemetry\.every is 0"):
        Settings(every=0)
