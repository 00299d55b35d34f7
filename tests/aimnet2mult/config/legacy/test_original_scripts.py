"""The batch scripts of the original run unchanged except for their paths: the same commands in the same shell."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.data.reference_energies import read_sae
from support.commands_in_process import run_module, run_with_commands

FILES = Path(__file__).with_name("original")

pytestmark = pytest.mark.slow

HEAD = """#!/bin/bash
CONFIG_FILE="{files}/plateau.yaml"
MODEL_FILE="{files}/model.yaml"
SAE_FID0="{folder}/sae_fid0.yaml"
SAE_FID1="{folder}/sae_fid1.yaml"
OUTPUT_DIR="{folder}/out"
SAVE_PATH="${{OUTPUT_DIR}}/model.pt"
OUTPUT_PREFIX="${{OUTPUT_DIR}}/compiled/model"
mkdir -p "${{OUTPUT_DIR}}/compiled"
set -e
"""
ONE = """
python -m aimnet2mult.train.calc_sae "{folder}/a.h5" "${{SAE_FID0}}"
python -m aimnet2mult.train.cli \\
    --config "${{CONFIG_FILE}}" \\
    --model "${{MODEL_FILE}}" \\
    --save "${{SAVE_PATH}}" \\
    run_name="01292026" \\
    project_name="p" \\
    data.fidelity_datasets.0="{folder}/a.h5" \\
    data.fidelity_weights.0=1.0 \\
    data.sae.energy.files.0="${{SAE_FID0}}"
python -m aimnet2mult.tools.compile_jit --weights "${{SAVE_PATH}}" --model "${{MODEL_FILE}}" \
--output "${{OUTPUT_PREFIX}}" --fidelity-level 0 --num-fidelities 1 --sae "${{SAE_FID0}}" --dispersion "none"
"""
TWO = """
python -m aimnet2mult.train.calc_sae --samples 100000 "{folder}/a.h5" "${{SAE_FID0}}"
python -m aimnet2mult.train.calc_sae "{folder}/b.h5" "${{SAE_FID1}}"
python -m aimnet2mult.train.cli \\
    --config "${{CONFIG_FILE}}" --model "${{MODEL_FILE}}" --save "${{SAVE_PATH}}" --verbose \\
    run_name="first" project_name="p" \\
    data.fidelity_datasets.0="{folder}/a.h5" data.fidelity_datasets.1="{folder}/b.h5" \\
    data.fidelity_weights.0="0.2" data.fidelity_weights.1="1.0" \\
    data.sae.energy.files.0="${{SAE_FID0}}" data.sae.energy.files.1="${{SAE_FID1}}"
mv "${{SAVE_PATH}}" "${{OUTPUT_DIR}}/first_model_105_val_loss=-0.0489.pt"
python -m aimnet2mult.train.cli \\
    --config "${{CONFIG_FILE}}" --model "${{MODEL_FILE}}" \\
    --load "${{OUTPUT_DIR}}/first_model_105_val_loss=-0.0489.pt" --save "${{SAVE_PATH}}" \\
    run_name="second" project_name="p" \\
    data.fidelity_datasets.0="{folder}/a.h5" data.fidelity_datasets.1="{folder}/b.h5" \\
    data.sae.energy.files.0="${{SAE_FID0}}" data.sae.energy.files.1="${{SAE_FID1}}"
for LEVEL in 0 1; do
    SAE="SAE_FID${{LEVEL}}"
    python -m aimnet2mult.tools.compile_jit --weights "${{SAVE_PATH}}" --model "${{MODEL_FILE}}" \
--output "${{OUTPUT_PREFIX}}" --fidelity-level "${{LEVEL}}" --fidelity-offset 200 --num-fidelities 2 \
--use-fidelity-readouts true --sae "${{!SAE}}" --dispersion d3bj --dispersion-functional wb97m
done
"""


def write_data(path: Path, seed: int) -> None:
    """Write structures in the layout of the original: groups named 3 and 4, all arrays float32."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for atoms in (3, 4):
            numbers = rng.choice([1, 6, 7, 8, 9], size=(30, atoms))
            group = {
                "coord": np.arange(3.0 * atoms).reshape(atoms, 3) + rng.normal(0, 0.1, (30, atoms, 3)),
                "charge": (numbers.sum(axis=1) % 2).astype(float),
                "mult": np.ones(30),
                "energy": -13.6 * numbers.sum(axis=1) + rng.normal(size=30),
                "forces": rng.normal(size=(30, atoms, 3)),
                "charges": rng.normal(size=(30, atoms)),
                "spin_charges": rng.normal(size=(30, atoms)),
            }
            file[f"{atoms}/numbers"] = numbers
            for key, values in group.items():
                file[f"{atoms}/{key}"] = values.astype(np.float32)


@pytest.fixture
def run_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[str], str]:
    """Return a function that runs a script on data of two fidelities, and returns its output."""
    monkeypatch.setenv("TELEMETRY_SINKS", "none")
    for seed, name in enumerate(("a.h5", "b.h5")):
        write_data(tmp_path / name, seed)

    def run(text: str) -> str:
        (tmp_path / "run.sh").write_text((HEAD + text).format(folder=tmp_path, files=FILES))
        code = run_with_commands(["/bin/bash", "run.sh"], tmp_path, {"python": run_module})
        output = "".join(capfd.readouterr()) + caplog.text
        assert code == 0, output
        return output

    return run


def test_the_script_for_one_fidelity_runs(tmp_path: Path, run_script: Callable[[str], str]) -> None:
    output = run_script(ONE)
    assert sorted(read_sae(tmp_path / "sae_fid0.yaml")) == [1, 6, 7, 8, 9]
    assert output.count("translated from the format of the original trainer") == 1
    assert (tmp_path / "out" / "compiled" / "model_fid0.jpt").stat().st_size > 1000


def test_the_scripts_for_two_fidelities_and_for_continued_training_run(
    tmp_path: Path, run_script: Callable[[str], str]
) -> None:
    output = run_script(TWO)
    assert "parameters:\n" in output
    assert (tmp_path / "out" / "model.pt").is_file()
    assert len(list((tmp_path / "runs").iterdir())) == 2
    for level in (0, 1):
        assert (tmp_path / "out" / "compiled" / f"model_fid{level}.pt").stat().st_size > 1000
