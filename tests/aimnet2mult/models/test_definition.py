"""Model definitions are read as in aimnet, but without torch."""

from pathlib import Path

import pytest

from aimnet2mult.errors import ConfigError, ModelError
from aimnet2mult.models.definition import DEFAULT, read_definition


def test_the_default_is_aimnet2() -> None:
    assert read_definition(DEFAULT)["class"] == "aimnet.models.AIMNet2"


def test_files_are_included(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "model.yaml").write_text("class: a\nkwargs: {outputs: [parts/head.yaml, {x: parts/head.yaml}]}\n")
    (tmp_path / "parts/head.yaml").write_text("class: b\nkwargs: deep.yml\n")
    (tmp_path / "parts/deep.yml").write_text("n: 1\n")
    head = {"class": "b", "kwargs": {"n": 1}}
    assert read_definition(tmp_path / "model.yaml") == {"class": "a", "kwargs": {"outputs": [head, {"x": head}]}}


@pytest.mark.parametrize("name", ["../secret.yaml", "link.yaml", "{secret}"])
def test_a_file_outside_the_folder_of_the_definition_is_not_included(tmp_path: Path, name: str) -> None:
    secret, folder = tmp_path / "secret.yaml", tmp_path / "received"
    secret.write_text("user: me\n")
    folder.mkdir()
    (folder / "link.yaml").symlink_to(secret)
    (folder / "model.yaml").write_text(f"class: torch.nn.Identity\nkwargs: {{x: {name.format(secret=secret)}}}\n")
    with pytest.raises(ConfigError, match=r"model.yaml includes .*, which is not in .*received"):
        read_definition(folder / "model.yaml")


def test_a_definition_without_a_class_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("kwargs: {}\n")
    with pytest.raises(ConfigError, match=r"model.yaml has no key 'class'"):
        read_definition(tmp_path / "model.yaml")


def test_a_cycle_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("class: model.yaml\n")
    with pytest.raises(ConfigError, match=r"model.yaml: the definitions include each other in a cycle"):
        read_definition(tmp_path / "model.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("class: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere.yaml"):
        read_definition(tmp_path / "model.yaml")


@pytest.mark.parametrize("rows", ["63", "0", "-1", "1.5", "true", "null", "'128'", "1000000000"])
def test_an_impossible_number_of_elements_is_rejected(tmp_path: Path, rows: str) -> None:
    (tmp_path / "model.yaml").write_text(f"class: aimnet.models.AIMNet2\nkwargs: {{max_z: {rows}}}\n")
    with pytest.raises(ModelError, match=r"model.yaml: max_z is .*; expected a number of rows from 64 to 1000"):
        read_definition(tmp_path / "model.yaml")
