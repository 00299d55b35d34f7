"""The command of the original that exports models."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from aimnet2mult.cli.compile_jit import compile_jit
from support.legacy_keys import OPTIONS


def options(folder: Path, *more: str) -> list[str]:
    for name in ("model.pt", "model.yaml", "sae.yaml"):
        (folder / name).touch()
    files = ["--weights", "model.pt", "--model", "model.yaml", "--sae", "sae.yaml", "--output", "out"]
    paths = [str(folder / word) if "." in word or word == "out" else word for word in files]
    return [*paths, "--fidelity-level", "0", "--num-fidelities", "1", *more]


def test_all_options_of_the_original_are_accepted() -> None:
    ours = {name for parameter in compile_jit.params for name in parameter.opts}
    assert ours == set(OPTIONS["tools.compile_jit"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dispersion", "d4"], "--dispersion d4 is not implemented"),
        (["--dispersion", "d3bj"], "--dispersion d3bj needs --dispersion-functional"),
        (["--dispersion", "d3bj", "--dispersion-s8", "1"], "also needs --dispersion-a1, --dispersion-a2"),
        (["--dispersion", "d3bj", "--dispersion-a1", "1"], "also needs --dispersion-s8, --dispersion-a2"),
        (["--dispersion", "d5"], "'d5' is not one of"),
    ],
)
def test_a_dispersion_correction_that_is_not_available_is_an_error(
    tmp_path: Path, words: list[str], message: str
) -> None:
    result = CliRunner().invoke(compile_jit, options(tmp_path, *words))
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.glob("out*"))
