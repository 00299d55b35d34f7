"""PointConverter: which values of a point are recorded, in which unit, and why others are not."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from telemetry import Metric
from telemetry.metrics import UNDECLARED
from telemetry.recording.declarations import MAX_DESCRIPTION, Declarations
from telemetry.recording.point_values import PointConverter

ENERGY = Metric(unit="kcal/mol", source_unit="eV/particle")
FACTOR = 23.060547830619


def converter(**metrics: Metric) -> PointConverter:
    return PointConverter(Declarations({name.replace("__", "/"): metric for name, metric in metrics.items()}))


def test_values_are_multiplied_by_their_metrics_factor_and_keep_their_order() -> None:
    scaled = {"train__a": Metric(unit="m", source_unit="cm"), "train__b": Metric(unit="cm", source_unit="m")}
    convert = converter(**scaled, val__a=Metric(unit="mm", source_unit="m")).convert
    assert list(convert("train", {"b": 4.0, "a": 1.0}).recorded.items()) == [("b", 400.0), ("a", 0.01)]
    assert convert("val", {"a": 1.0}).recorded == {"a": 1000.0}
    assert math.isnan(convert("val", {"a": math.nan}).recorded["a"])
    assert convert("val", {"a": -math.inf}).recorded == {"a": -math.inf}


def test_converting_a_single_precision_value_does_not_round_it_again() -> None:
    exact = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    recorded = converter(train__a=ENERGY).convert("train", {"a": np.float32(0.1)}).recorded["a"]
    assert recorded == pytest.approx(exact * FACTOR, rel=1e-12)


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
    recorded, (dropped,), _, _ = PointConverter().convert("train", {"a": value, "b": 2.0})
    assert recorded == {"b": 2.0}
    assert (dropped.name, dropped.reason) == ("a", "not a number")
    assert f"a has the type {type(value).__name__} and is not one number" in dropped.text


def test_a_name_that_appears_is_declared_once_and_a_misspelled_one_is_hinted_at() -> None:
    convert = converter(train__loss=Metric()).convert
    point = convert("train", {"xyz": 1.0, "loss": 2.0, "lose": 3.0})
    assert (point.recorded, point.dropped) == ({"xyz": 1.0, "loss": 2.0, "lose": 3.0}, [])
    assert point.appeared == {"train/xyz": UNDECLARED, "train/lose": UNDECLARED}
    unlike, misspelled = point.hints
    assert unlike == "metric 'train/xyz' is not declared, so its unit is unknown"
    assert misspelled.endswith("Did you mean 'loss'?")
    again = convert("train", {"xyz": 1.0, "lose": 3.0})
    assert (again.appeared, again.hints) == ({}, [])


def test_without_declarations_of_a_stream_there_are_no_hints() -> None:
    assert converter(train__loss=Metric()).convert("val", {"loss": 1.0}).hints == []


def test_the_first_matching_pattern_declares_a_name_and_a_full_name_precedes_patterns() -> None:
    metrics = {"*/E_rmse": ENERGY, "val/*": Metric(unit="e"), "val/E_mae": Metric(unit="eV")}
    convert = PointConverter(Declarations(metrics)).convert
    point = convert("val", {"E_rmse": 1.0, "q": 2.0, "E_mae": 3.0})
    assert point.recorded == {"E_rmse": pytest.approx(FACTOR), "q": 2.0, "E_mae": 3.0}
    assert point.appeared == {"val/E_rmse": ENERGY, "val/q": Metric(unit="e")}
    assert point.hints == []


def test_a_later_declaration_applies_to_new_names_only() -> None:
    declarations = Declarations({})
    convert = PointConverter(declarations).convert
    convert("val", {"E": 1.0})
    assert declarations.declare({"val/E": ENERGY, "val/F": ENERGY, "*/G": ENERGY}) == {"val/F": ENERGY}
    assert convert("val", {"E": 1.0, "F": 1.0, "G": 1.0}).recorded == {
        "E": 1.0,
        "F": pytest.approx(FACTOR),
        "G": pytest.approx(FACTOR),
    }


def test_a_declaration_of_an_earlier_attempt_may_be_repeated_with_the_same_unit_only() -> None:
    watched = Metric(unit="kcal/mol", source_unit="eV/particle", watch=True)
    declarations = Declarations({}, {"val/E": ENERGY, "val/F": Metric()})
    assert declarations.declare({"val/E": watched, "val/F": watched}) == {"val/E": watched}
    assert declarations.declare({"val/E": ENERGY}) == {}, "repeated once"


def test_names_that_would_not_fit_into_a_run_record_are_left_out() -> None:
    convert = PointConverter().convert
    points = [convert("train", {f"{number:0200}": 1.0}) for number in range(2000)]
    recorded = sum(len(point.recorded) for point in points)
    assert 0.7 < recorded * 286 / MAX_DESCRIPTION <= 1
    assert points[-1].dropped[0].reason == "too many names"
    assert convert("train", {f"{0:0200}": 2.0}).recorded == {f"{0:0200}": 2.0}


def test_the_full_name_of_a_declared_metric_is_accepted() -> None:
    convert = converter(train__loss=ENERGY, val__loss=Metric()).convert
    assert convert("train", {"train/loss": 1.0}).recorded == {"loss": pytest.approx(FACTOR)}
    assert convert("train", {"val/loss": 1.0}).appeared == {"train/val/loss": UNDECLARED}


def test_a_fidelity_may_have_the_name_of_a_stream() -> None:
    convert = converter(train__loss=Metric(), train__train__loss=ENERGY).convert
    point = convert("train", {"loss": 1.0, "train/loss": 1.0})
    assert point.recorded == {"loss": 1.0, "train/loss": pytest.approx(FACTOR)}


@pytest.mark.parametrize(
    ("name", "text"),
    [("n" * 300, "has 300 characters; names have 1 to 250"), ("", "0 characters"), ("\udcff", "not valid Unicode")],
    ids=["long", "empty", "no text"],
)
def test_an_invalid_name_is_left_out_alone(name: str, text: str) -> None:
    recorded, (dropped,), _, _ = PointConverter().convert("train", {"a": 1.0, name: 2.0})
    assert recorded == {"a": 1.0}
    assert dropped.reason == "invalid name"
    assert text in dropped.text


def test_values_that_are_not_a_mapping_are_an_error() -> None:
    with pytest.raises(TypeError, match="the values are of type list; expected a mapping of metric names to numbers"):
        PointConverter().convert("train", [1.0])  # type: ignore[arg-type]
