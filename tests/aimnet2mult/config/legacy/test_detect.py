"""Which files are in the original format."""

from pathlib import Path

import pytest

from aimnet2mult.config.legacy.detect import is_legacy
from aimnet2mult.config.merge import DEFAULTS, read_yaml
from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError
from support.legacy_settings import FILES


@pytest.mark.parametrize("name", ["plateau", "cosine", "iterations"])
def test_original_files_are_recognized(name: str) -> None:
    assert is_legacy(read_yaml(FILES / f"{name}.yaml"))


def test_the_current_defaults_are_not_in_the_original_format() -> None:
    assert not is_legacy(read_yaml(DEFAULTS))


def test_a_single_original_key_is_an_unknown_key(tmp_path: Path, data: list[str]) -> None:
    (tmp_path / "c.yaml").write_text("wandb: {init: {mode: offline}}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'wandb.init.mode'"):
        load([tmp_path / "c.yaml"], data)
