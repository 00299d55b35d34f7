"""Samplers and fidelity weights of the original format."""

import pytest

from aimnet2mult.errors import ConfigError
from support.legacy_settings import notes, read

WEIGHTS = [
    (["data.fidelity_weights.0=1", "data.fidelity_weights.1=1"], {}, None),
    (["data.fidelity_weights.0=1"], {}, None),
    (["data.fidelity_weights.0=4"], {0: 4.0}, "{0: 4}; weights are rounded down to tenths"),
    (["data.fidelity_weights.0=4", "data.fidelity_weights.1=0.25"], {0: 4.0, 1: 0.2}, "{0: 4, 1: 0.2}; weights"),
    (["data.fidelity_weights.0=0", "data.fidelity_weights.1=1"], {0: 0.1, 1: 1.0}, "{0: 0.1, 1: 1}; weights"),
    (["data.fidelity_weights.0=3", "data.fidelity_weights.7=1"], {0: 3.0}, "they had no effect in later ones"),
    (["data.fidelity_weights=null"], {}, None),
]


@pytest.mark.parametrize(("overrides", "weights", "text"), WEIGHTS)
def test_weights_are_per_structure_and_rounded_as_in_the_original(
    data: list[str], caplog: pytest.LogCaptureFixture, overrides: list[str], weights: dict[int, float], text: str | None
) -> None:
    config = read("plateau", data, *overrides)
    assert config.data.fidelity_weights == weights
    assert config.data.weights_of == "structure"
    note = notes(caplog).get("data.fidelity_weights")
    assert (note is None) == (text is None)
    assert (text or "") in (note or "")


def test_uniform_sampling_ignores_weights_with_a_note(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    uniform = "data.samplers.train.kwargs.sampling_strategy=uniform"
    config = read("plateau", data, "data.fidelity_weights.0=4", uniform)
    assert config.data.fidelity_weights == {}
    assert "sampling_strategy is uniform" in notes(caplog)["data.fidelity_weights"]


def test_weights_can_be_those_of_whole_fidelities(data: list[str]) -> None:
    weights = ["data.fidelity_weights.0=0.25", "data.weights_of=fidelity"]
    assert read("plateau", data, *weights).data.fidelity_weights == {0: 0.25}


def test_a_weight_that_is_not_a_number_is_rejected(data: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data.fidelity_weights.0 is 'many': expected a number of at least 0"):
        read("plateau", data, "data.fidelity_weights.0=many")


@pytest.mark.parametrize("number", ["-1", "0", "null"])
def test_without_a_number_of_batches_an_epoch_uses_all_structures(data: list[str], number: str) -> None:
    config = read("plateau", data, f"data.samplers.train.kwargs.batches_per_epoch={number}")
    assert config.data.samplers.train.batches_per_epoch is None


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("data.samplers.val.kwargs.batches_per_epoch", "10", "all its structures"),
        ("data.samplers.val.kwargs.sampling_strategy", "weighted", "each structure once"),
    ],
)
def test_sampling_for_a_validation_cannot_be_changed(
    data: list[str], caplog: pytest.LogCaptureFixture, key: str, value: str, text: str
) -> None:
    read("plateau", data, f"{key}={value}")
    assert text in notes(caplog)[key]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.samplers.train.kwargs.shuffle=false", r"kwargs.shuffle is False: training data are always shuffled"),
        ("data.samplers.train.kwargs.sampling_strategy=random", r"is 'random': expected weighted or uniform"),
        ("data.sae.energy.mode=logratio", r"data.sae.energy.mode is 'logratio': only linreg"),
        ("data.samplers.train.kwargs.drop_last=true", r"unknown key 'data.samplers.train.kwargs.drop_last'"),
    ],
)
def test_settings_that_would_change_the_training_are_rejected(data: list[str], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("plateau", data, override)
