"""W&B settings of the original format."""

import pytest

from aimnet2mult.errors import ConfigError
from support.legacy_settings import notes, read


def test_a_wandb_section_selects_the_sink_unless_sinks_are_named(data: list[str]) -> None:
    assert read("plateau", data).telemetry["sinks"] == ["wandb"]
    assert read("plateau", data, "telemetry.sinks=none").telemetry["sinks"] == "none"
    assert "sinks" not in read("plateau", data, "wandb=null").telemetry
    assert "sinks" not in read("cosine", data).telemetry


def test_a_disabled_run_has_no_sinks_until_another_mode_is_given(data: list[str]) -> None:
    disabled = read("plateau", data, "wandb.init.mode=disabled").telemetry
    assert disabled["sinks"] == "none"
    assert disabled["wandb"]["mode"] == "online"
    named = read("plateau", data, "wandb.init.mode=disabled", "wandb.init.name=a").telemetry
    assert named["sinks"] == "none"
    again = read("plateau", data, "wandb.init.mode=disabled", "wandb.init.name=a", "wandb.init.mode=offline").telemetry
    assert again["sinks"] == ["wandb"]


def test_an_option_that_the_sink_does_not_have_is_noted(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    read("plateau", data, "wandb.init.id=x")
    assert "telemetry sinks" in notes(caplog)["wandb.init.id"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wandb.init.mode=shared", r"wandb.init.mode is 'shared': expected online, offline or disabled"),
        ("wandb.log=1", r"unknown key 'wandb.log'"),
    ],
)
def test_an_unknown_mode_or_key_is_rejected(data: list[str], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("plateau", data, override)
