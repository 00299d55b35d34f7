"""Model definitions of the original format."""

from pathlib import Path

from aimnet2mult.models.definition import read_definition
from support.legacy_settings import FILES


def test_classes_become_those_of_aimnet() -> None:
    definition = read_definition(FILES / "model.yaml")
    assert definition["class"] == "aimnet.models.AIMNet2"
    outputs = definition["kwargs"]["outputs"]
    assert [part["class"] for part in outputs.values()] == [
        f"aimnet.modules.{name}" for name in ("Output", "AtomicShift", "AtomicSum", "LRCoulomb")
    ]
    assert outputs["lrcoulomb"]["kwargs"] == {"key_in": "charges", "key_out": "energy", "method": "simple", "rc": 4.6}


def test_the_size_of_the_embedding_agrees_with_aimnet(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("class: aimnet2mult.models.aimnet2.AIMNet2\nkwargs: {max_z: 128, nfeature: 4}\n")
    assert read_definition(tmp_path / "m.yaml")["kwargs"] == {"nfeature": 4}
