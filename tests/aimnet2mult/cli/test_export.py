"""``aimnet2mult export`` reports mistakes in one line, before it writes anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from aimnet2mult import cli
from support.saved_models import describe, write_weights


@pytest.fixture(autouse=True)
def _weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(Path("w.pt"), describe())
    Path("there.pt").write_text("precious")


def export(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.run(cli.cli, "aimnet2mult", ["export", *arguments])
    written = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, written.out, written.err


MISTAKES = {
    "no fidelity": (["w.pt", "out.pt"], "several fidelities: gfn1, wb97m; choose one with --fidelity NAME"),
    "unknown fidelity": (["w.pt", "out.pt", "--fidelity", "wb97"], "Did you mean 'wb97m'?"),
    "no model": (["nowhere", "out.pt", "--fidelity", "gfn1"], "no run 'nowhere'"),
    "an existing file": (["w.pt", "there.pt", "--fidelity", "gfn1"], "there.pt already exists; remove it"),
    "no folder": (["w.pt", "no/out.pt", "--fidelity", "gfn1"], "/no; create it or choose another"),
    "no weights": (["there.pt", "out.pt"], "cannot read the weights in"),
    "a wrong suffix": (["w.pt", "out.jpt", "--fidelity", "gfn1"], "the suffix .jpt is for TorchScript"),
    "TorchScript as .pt": (["w.pt", "out.pt", "--torchscript"], "TorchScript needs the suffix .jpt"),
    "D3 in TorchScript": (["w.pt", "out.jpt", "--torchscript", "--d3", "pbe"], "--d3 is not available"),
    "an unknown functional": (["w.pt", "out.pt", "--fidelity", "gfn1", "--d3", "pbee"], "parameters of a functional"),
    "an unknown parameter": (["w.pt", "out.pt", "--fidelity", "gfn1", "--d3", "s8=1,a3=2"], "'a3=2' is none of s8"),
    "a missing parameter": (["w.pt", "out.pt", "--fidelity", "gfn1", "--d3", "s8=1,a1=2"], "a2 missing"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    pytest.importorskip("dftd3")
    arguments, message = MISTAKES[kind]
    code, out, err = export(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert message in err
    assert sorted(path.name for path in Path().iterdir()) == ["there.pt", "w.pt"]
    assert Path("there.pt").read_text() == "precious"


def test_force_replaces_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = export(capsys, "w.pt", "there.pt", "--fidelity", "gfn1", "--force")
    assert (code, out) == (0, f"wrote there.pt: fidelity gfn1 of {Path('w.pt').resolve()}\n")
    assert Path("there.pt").read_bytes().startswith(b"PK")


def test_labels_without_training_data_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(Path("p.pt"), replace(describe(), absent_labels=(frozenset({"spin_charges"}), frozenset())))
    _, out, _ = export(capsys, "p.pt", "gfn1.pt", "--fidelity", "gfn1")
    assert "do not use its spin_charges: the training data of gfn1 have none" in out
    assert "do not use" not in export(capsys, "p.pt", "wb97m.pt", "--fidelity", "wb97m")[1]


def test_parameters_of_dispersion_are_those_of_the_functional(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    pytest.importorskip("dftd3")
    for given in ("wb97m", "s8=0.3908,a1=0.566,a2=3.128"):
        assert export(capsys, "w.pt", "d3.pt", "--fidelity", "wb97m", "--d3", given, "--force")[0] == 0
        found = torch.load("d3.pt", weights_only=True)
        assert found["needs_dispersion"]
        assert found["d3_params"] == {"s6": 1.0, "s8": 0.3908, "a1": 0.566, "a2": 3.128}
