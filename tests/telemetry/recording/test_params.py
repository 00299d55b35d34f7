"""Parameters given as objects of other libraries."""

from __future__ import annotations

import argparse
import dataclasses
import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from omegaconf import OmegaConf

from telemetry import SettingError, open_run, read_header
from telemetry.recording.params import plain_params


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1


class Struct(msgspec.Struct):
    lr: float = 0.1


class Tuple(NamedTuple):
    lr: float = 0.1


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 0.1},
        argparse.Namespace(lr=0.1),
        SimpleNamespace(lr=0.1),
        Optimizer(),
        Struct(),
        Tuple(),
        OmegaConf.create({"lr": "${other}", "other": 0.1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_with_named_fields_are_mappings_at_any_depth(params: Any) -> None:
    assert plain_params(params)["lr"] == 0.1
    assert plain_params({"a": [params]})["a"][0]["lr"] == 0.1


def test_the_values_become_lists_and_scalars() -> None:
    values = {
        "color": Color.RED,
        "level": Level.HIGH,
        "mode": Mode.FAST,
        "array": np.array([[1, 2], [3, 4]]),
        "large": np.zeros((100, 100)),
        "set": {"b", "a"},
        "tuple": (1, (2,)),
        "list": OmegaConf.create([1, 2]),
    }
    assert plain_params(values) == {
        "color": "RED",
        "level": 3,
        "mode": "fast",
        "array": [[1, 2], [3, 4]],
        "large": "ndarray of 10000 elements",
        "set": ["a", "b"],
        "tuple": [1, [2]],
        "list": [1, 2],
    }


def test_an_object_that_is_no_array_is_left_as_it_is() -> None:
    class Table:
        def tolist(self) -> list[int]:
            return [1, 2]

    table = Table()
    assert plain_params({"table": table}) == {"table": table}


def test_arguments_of_a_script_are_recorded(tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        lr=0.1, data=Path("a.h5"), dtype=np.float32(0.5), api_key="s3cr3t", optimizer=Optimizer
    )
    open_run(tmp_path / "run", sinks=[], params=arguments).close(timeout=0)
    params = read_header(tmp_path / "run").params
    assert (params["lr"], params["data"], params["dtype"], params["api_key"]) == (0.1, "a.h5", 0.5, "***")


def test_a_value_that_contains_itself_ends() -> None:
    loop: dict[str, Any] = {"lr": 0.1}
    loop["self"] = loop
    assert plain_params(loop)["lr"] == 0.1


def test_a_value_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(SettingError, match="params cannot be read: MissingMandatoryValue: Missing mandatory value: lr"):
        plain_params(OmegaConf.create({"lr": "???"}))


@pytest.mark.parametrize("params", [[1], 0.1, "lr=0.1", np.zeros(2)])
def test_parameters_without_names_are_an_error(params: object) -> None:
    with pytest.raises(SettingError, match=r"params is of type .*; expected a mapping of names to values"):
        plain_params(params)


def test_an_object_that_contains_itself_is_abbreviated() -> None:
    params: dict[str, Any] = {"lr": 0.1}
    params.update({f"again{number}": params for number in range(5)}, list=[params])
    assert plain_params(params) == {"lr": 0.1, **{f"again{n}": "..." for n in range(5)}, "list": ["..."]}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_values_without_a_text_or_with_invalid_unicode_do_not_prevent_the_run(tmp_path: Path) -> None:
    open_run(tmp_path / "run", params={"file": "D\udcfcsseldorf.h5", "object": Unprintable()}, sinks=[]).close()
    assert read_header(tmp_path / "run").params == {"file": "D\\udcfcsseldorf.h5", "object": "<Unprintable>"}
