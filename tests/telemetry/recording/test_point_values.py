"""PointConverter: which values of a point are recorded, in which unit, and why others are not."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from telemetry.recording.point_values import PointConverter


def test_values_are_multiplied_by_their_metrics_factor_and_keep_their_order() -> None:
    convert = PointConverter({"train/a": 2.0, "train/b": 0.5, "val/a": 3.0}).convert
    assert list(convert("train", {"b": 4.0, "a": 1.0}).recorded.items()) == [("b", 2.0), ("a", 2.0)]
    assert convert("val", {"a": 1.0}).recorded == {"a": 3.0}
    assert math.isnan(convert("val", {"a": math.nan}).recorded["a"])
    assert convert("val", {"a": -math.inf}).recorded == {"a": -math.inf}


def test_converting_a_single_precision_value_does_not_round_it_again() -> None:
    exact = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    convert = PointConverter({"train/a": 23.060547830619}).convert
    assert convert("train", {"a": np.float32(0.1)}).recorded == {"a": exact * 23.060547830619}


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        Fraction(1, 2),
        Decimal("0.5"),
        np.float16(0.5),
        np.array(0.5),
        np.array([[0.5]]),
    ],
    ids=repr,
)
def test_every_kind_of_single_number_is_recorded(value: Any) -> None:
    assert PointConverter().convert("train", {"a": value}).recorded == {"a": 0.5}


@pytest.mark.parametrize("value", [True, np.True_, np.int64(1)], ids=repr)
def test_booleans_and_integers_are_recorded_as_numbers(value: Any) -> None:
    assert PointConverter().convert("train", {"a": value}).recorded == {"a": 1.0}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "high",
        [0.5],
        {"b": 0.5},
        object(),
        10**400,
        1 + 2j,
        np.complex64(1 + 2j),
        np.array([0.5, 0.5]),
        np.array([]),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:8]}".replace("object at", ""),
)
def test_a_value_that_is_not_one_number_is_left_out_alone(value: Any) -> None:
    recorded, (dropped,) = PointConverter().convert("train", {"a": value, "b": 2.0})
    assert recorded == {"b": 2.0}
    assert (dropped.name, dropped.reason) == ("a", "not a number")
    assert f"a has the type {type(value).__name__} and is not one number" in dropped.text


def test_an_undeclared_metric_is_left_out_alone_with_advice() -> None:
    convert = PointConverter({"train/loss": 1.0}).convert
    recorded, (unlike, misspelled) = convert("train", {"xyz": 1.0, "loss": 2.0, "lose": 3.0})
    assert recorded == {"loss": 2.0}
    assert (unlike.name, unlike.reason) == ("xyz", "undeclared metric")
    assert unlike.text == (
        "metric 'train/xyz' is not declared; declare it in open_run(metrics={'train/xyz': Metric(unit=…)})"
    )
    assert misspelled.text.endswith("Did you mean 'loss'?")


def test_the_full_name_of_a_declared_metric_is_accepted() -> None:
    convert = PointConverter({"train/loss": 2.0, "val/loss": 1.0}).convert
    assert convert("train", {"train/loss": 1.0}).recorded == {"loss": 2.0}
    assert [dropped.name for dropped in convert("train", {"val/loss": 1.0}).dropped] == ["val/loss"]


def test_a_fidelity_may_have_the_name_of_a_stream() -> None:
    convert = PointConverter({"train/loss": 2.0, "train/train/loss": 3.0}).convert
    assert convert("train", {"loss": 1.0, "train/loss": 1.0}).recorded == {"loss": 2.0, "train/loss": 3.0}


@pytest.mark.parametrize(
    ("name", "text"),
    [("n" * 300, "has 300 characters; names have 1 to 250"), ("", "0 characters"), ("\udcff", "not valid Unicode")],
    ids=["long", "empty", "no text"],
)
def test_an_invalid_name_is_left_out_alone(name: str, text: str) -> None:
    recorded, (dropped,) = PointConverter().convert("train", {"a": 1.0, name: 2.0})
    assert recorded == {"a": 1.0}
    assert dropped.reason == "invalid name"
    assert text in dropped.text


def test_values_that_are_not_a_mapping_are_an_error() -> None:
    with pytest.raises(TypeError, match="the values are of type list; expected a mapping of metric names to numbers"):
        PointConverter().convert("train", [1.0])  # type: ignore[arg-type]
