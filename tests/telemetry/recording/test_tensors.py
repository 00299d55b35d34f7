"""Tensors of torch as steps, values and parameters."""

import pytest

from telemetry.recording.params import plain_params
from telemetry.recording.point_values import PointConverter
from telemetry.recording.steps import parse_step

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (torch.tensor(0.5), 0.5),
        (torch.tensor([0.5], requires_grad=True), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(True), 1.0),
        (torch.tensor(1), 1.0),
    ],
    ids=repr,
)
def test_a_tensor_of_one_number_is_recorded(value: "torch.Tensor", number: float) -> None:
    assert PointConverter().convert("train", {"a": value}).recorded == {"a": number}


@pytest.mark.parametrize("value", [torch.tensor([0.5, 0.5]), torch.tensor(1 + 2j)], ids=repr)
def test_a_tensor_that_is_not_one_number_is_left_out_alone(value: "torch.Tensor") -> None:
    recorded, (dropped,), _, _ = PointConverter().convert("train", {"a": value, "b": 2.0})
    assert recorded == {"b": 2.0}
    assert dropped.reason == "not a number"
    assert "a has the type Tensor and is not one number" in dropped.text


def test_a_tensor_is_a_step() -> None:
    assert parse_step(torch.tensor(4)) == 4


def test_a_tensor_among_the_parameters_becomes_a_list() -> None:
    assert plain_params({"tensor": torch.tensor([0.5])}) == {"tensor": [0.5]}
