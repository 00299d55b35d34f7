"""Validation frequencies of the original format."""

import pytest

from aimnet2mult.errors import ConfigError
from support.legacy_settings import read

FREQUENCIES = [
    ([], None),
    (["wandb.log_frequency.val=5000"], 5000),
    (["wandb.log_frequency.val=5000", "log_frequency.val=500"], 500),
    (["val_frequency.mode=epochs"], None),
    (["val_frequency={mode: iterations, every: 1000}"], 1000),
    (["val_frequency={mode: iterations, every: 1000}", "val_frequency.every=70"], 70),
    (["val_frequency={mode: epochs, every: 1}"], None),
    (["val_frequency={mode: epochs, every: 4}"], 12),
    (["log_frequency=null"], None),
]


@pytest.mark.parametrize(("overrides", "iterations"), FREQUENCIES)
def test_the_validation_frequency_is_kept(data: list[str], overrides: list[str], iterations: int | None) -> None:
    assert read("plateau", data, *overrides).log_frequency.val == iterations


def test_several_epochs_of_unknown_length_are_rejected(data: list[str]) -> None:
    several = ["val_frequency={mode: epochs, every: 4}", "data.samplers.train.kwargs.batches_per_epoch=-1"]
    with pytest.raises(ConfigError, match=r"val_frequency.every is 4 epochs.*; set log_frequency.val"):
        read("plateau", data, *several)


def test_a_frequency_in_iterations_needs_a_number(data: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"val_frequency has no key 'every'; add it"):
        read("plateau", data, "val_frequency.mode=iterations")
