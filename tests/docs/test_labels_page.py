"""The settings, the parts of models and the commands in docs/how-to/labels.md work as shown."""

import re
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.schema import load
from aimnet2mult.models.definition import max_element
from aimnet2mult.quantities import LABELS
from support.small_models import batch, build, definition

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "labels.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
DIPOLE, SETTINGS, VOLUMES, TABLES = (yaml.safe_load(block) for kind, block in BLOCKS if kind == "yaml")
COMMANDS = [shlex.split(line) for kind, block in BLOCKS if not kind for line in block.splitlines()]


def test_the_table_lists_the_built_in_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| \((.*?)\) \|", TEXT, re.MULTILINE)
    assert [(name, abbr) for name, abbr, _ in rows] == [(label.name, label.abbr) for label in LABELS.values()]
    shapes = {name: tuple({"B": 7, "N": 5}.get(x, x) for x in shape.rstrip(",").split(", ")) for name, _, shape in rows}
    assert shapes == {name: tuple(map(_same, label.shape(7, 5))) for name, label in LABELS.items()}


def _same(size: int) -> int | str:
    return size if size in (7, 5) else str(size)


def test_the_declared_label_and_the_parts_of_the_model_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(SETTINGS, allow_unicode=True), encoding="utf-8")
    config = load([path], [f"data.fidelity_datasets.0={tmp_path / 'a.h5'}"], check_inputs=False)
    (volumes,) = (label for label in config.labels if label.name == "volumes")
    head: dict[str, Any] = {**VOLUMES["volumes"], "kwargs": {**VOLUMES["volumes"]["kwargs"], "n_in": 6}}
    model = build(definition=definition(volumes=head, **DIPOLE), labels=(volumes, LABELS["dipole"]), n_fidelities=2)
    assert model(batch([0, 1]))["volumes"].shape == (2, 4)
    assert max_element(TABLES) == 118


def test_the_commands_convert_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(SETTINGS, allow_unicode=True), encoding="utf-8")
    atoms = molecule("H2O")
    atoms.info |= {"energy": -2000.0, "charge": 0, "mult": 1}
    atoms.arrays |= {"forces": np.zeros((3, 3)), "vdw_volumes": np.array([1.0, 2.0, 3.0])}
    write("molecules.xyz", [atoms] * 4, format="extxyz")
    _, convert, check = COMMANDS
    for command in (convert, check):
        done = CliRunner().invoke(cli, command[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert re.search(r"^  volumes +4 structures$", done.output, re.MULTILINE)
    with h5py.File("molecules.h5") as file:
        assert file["003/volumes"][0] == pytest.approx(np.array([1, 2, 3]) * 0.529177210903**3, rel=1e-6)
