"""Model definitions of the original format."""

from pathlib import Path

import pytest

from aimnet2mult.models.definition import max_element, read_definition
from support.legacy_settings import FILES


def test_classes_become_those_of_aimnet() -> None:
    definition = read_definition(FILES / "model.yaml")
    assert definition["class"] == "aimnet.models.AIMNet2"
    outputs = definition["kwargs"]["outputs"]
    assert [part["class"] for part in outputs.values()] == [
        f"aimnet.modules.{name}" for name in ("Output", "AtomicShift", "AtomicSum", "LRCoulomb")
    ]
    assert outputs["lrcoulomb"]["kwargs"] == {"key_in": "charges", "key_out": "energy", "method": "simple", "rc": 4.6}


@pytest.mark.parametrize(
    ("kwargs", "offset", "rows"),
    [
        ("{nfeature: 4}", None, 128),
        ("{max_z: 100, nfeature: 4}", None, 100),
        ("{nfeature: 4}", 200, 128),
        ("{nfeature: 4}", 100, 100),
        ("{nfeature: 4}", 50, 64),
    ],
)
def test_the_tables_have_as_many_rows_as_in_the_original_and_as_the_offset_permits(
    kwargs: str, offset: int | None, rows: int, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(f"class: aimnet2mult.models.aimnet2.AIMNet2\nkwargs: {kwargs}\n")
    definition = read_definition(tmp_path / "m.yaml", offset)
    assert definition["kwargs"] == {"nfeature": 4, "max_z": rows}
    assert max_element(definition) == rows - 1 if rows <= 118 else 118
