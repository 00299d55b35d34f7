"""The command that checks data files."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner, Result

import aimnet2mult
from aimnet2mult.cli import cli
from aimnet2mult.errors import ConfigError
from support.small_groups import make_group

SAMPLE = Path(aimnet2mult.__file__).parent / "sample"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[h5py.File]:
    """Yield an open file of 30 structures; the checks read it once it is closed."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, array in make_group(4, 30, labels=("energy", "forces")).items():
            file[f"004/{key}"] = array
        yield file


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["check-data", *map(str, words)], catch_exceptions=False)


def check(data: h5py.File, *words: object) -> Result:
    path = data.filename
    data.close()
    return invoke(path, *words)


def test_the_sample_data_have_no_problems() -> None:
    result = invoke(SAMPLE / "gfn1.h5", SAMPLE / "spgfn2.h5")
    assert result.exit_code == 0
    assert "warning" not in result.output
    assert result.output.endswith("no errors\n")
    assert "6,700 in 12 groups" in result.output
    assert "H, B, C, N, O, F, Si, P, S, Cl" in result.output


def test_errors_give_exit_code_1_and_their_place(data: h5py.File) -> None:
    data["004/coord"][17, 2] = data["004/coord"][17, 0]
    result = check(data)
    assert result.exit_code == 1
    assert f"error: {data_path(result)}, group 004, row 17: atoms 0 and 2 are 0 Å apart" in result.output
    assert "no errors" not in result.output


def data_path(result: Result) -> str:
    return result.output.splitlines()[0]


def test_warnings_give_exit_code_0(data: h5py.File) -> None:
    data["004/forces"][3, 2, 1] = 1e6
    result = check(data)
    assert result.exit_code == 0
    assert f"warning: {data_path(result)}, group 004, row 3: force outlier, 1e+06 eV/Å" in result.output


def test_json_contains_the_same(data: h5py.File) -> None:
    data["004/charge"][2] = 101
    path = data.filename
    result = check(data, "--json")
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert report["errors"] == [f"{path}, group 004, row 2: charge is 101; expected an integer from -100 to 100"]
    assert (report["warnings"], report["bad_structures"]) == ([], 1)
    assert report["files"][0]["labels"] == {"energy": 29, "forces": 29}


def test_settings_of_training_apply(data: h5py.File) -> None:
    data["004/E"] = data["004/energy"][:] / 27.211386245988
    del data["004/energy"]
    data["004/coord"][:, 1] = data["004/coord"][:, 2] + [0, 0, 0.5]
    words = ["data.keys.energy=E", "data.units.energy=hartree", "data.y=[energy]", "data.min_distance=0.45"]
    result = check(data, *words)
    assert (result.exit_code, "energy                30 structures" in result.output) == (0, True), result.output
    path = data_path(result)
    assert invoke(path, *words, "--min-distance", "0.55").exit_code == 1
    result = invoke(path, "data.y=[energy]")
    assert (
        f"label 'energy' is not in the data set {path}; give its name with data.keys (other arrays: E" in result.output
    )
    with pytest.raises(ConfigError, match=r"data.keys: no array 'energi'.*Did you mean .energy.\?"):
        invoke(path, "data.keys.energi=E")
    with pytest.raises(ConfigError, match=r"data.units.energy: .*second.*\n.*data.units.coord: .*kelvin"):
        invoke(path, "data.units.energy=second", "data.units.coord=kelvin")


def test_validation_files_are_checked_and_compared(data: h5py.File, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for key, array in data["004"].items():
            file[f"004/{key}"] = array[5:8]
    result = check(data, "--val", tmp_path / "v.h5")
    assert result.exit_code == 0
    assert f"warning: {tmp_path / 'v.h5'}: 3 structures that are also in {tmp_path / 'a.h5'}, such as" in result.output


def test_arrays_with_other_names_are_shown(data: h5py.File) -> None:
    """A file whose labels all have other names would otherwise seem to be fine."""
    del data["004/forces"]
    data["004"].move("energy", "E_wb97m")
    result = check(data)
    path = data_path(result)
    assert "  labels                none\n  other arrays          E_wb97m\n" in result.output
    assert (
        f"warning: {path} has no energy or forces or charges or spin_charges or dipole or quadrupole; "
        "data.keys gives the names of labels (other arrays: E_wb97m)\n"
    ) in result.output
    assert "other arrays" not in invoke(path, "data.keys.energy=E_wb97m").output


def test_labels_are_in_the_same_order_in_every_call(data: h5py.File) -> None:
    data["004/spin_charges"] = data["004/charges"] = np.zeros((30, 4))
    path = data.filename
    data.close()
    code = f"from aimnet2mult.cli import cli, run; run(cli, 'aimnet2mult', ['check-data', {path!r}, '--json'])"
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        labels = json.loads(done.stdout)["files"][0]["labels"]
        assert list(labels) == ["energy", "forces", "charges", "spin_charges"]


def test_numbers_of_one_are_singular(data: h5py.File) -> None:
    data["004/energy"][1:] = np.nan
    data["004/forces"][2, 0, 0] = np.inf
    data["004/coord"][9] = data["004/coord"][8]
    data["004/numbers"][9] = data["004/numbers"][8]
    output = check(data).output
    assert "30 in 1 group\n" in output
    assert "  energy                1 structure\n" in output
    assert "1 value of forces is infinite and treated as missing" in output
    assert "1 repeated structure, which may be both in training and in validation: " in output


def test_files_that_do_not_exist_are_errors(tmp_path: Path) -> None:
    result = invoke(tmp_path / "a.h5", tmp_path / "b.h5")
    assert result.exit_code == 1
    assert result.output.count("error: no data set") == 2
    assert invoke("data.y=[energy]").exit_code != 0


def test_the_command_needs_neither_torch_nor_aimnet() -> None:
    code = f"""
import sys
for name in ("torch", "aimnet", "ignite", "tqdm"):
    sys.modules[name] = None
from aimnet2mult.cli import cli, run
run(cli, "aimnet2mult", ["check-data", {str(SAMPLE / "gfn1.h5")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no errors" in done.stdout


def test_a_large_block_of_bad_structures_takes_no_longer(tmp_path: Path) -> None:
    """Only the first ones are described, for example if all coordinates are in nm."""
    with h5py.File(tmp_path / "nm.h5", "w") as file:
        group = make_group(4, 5000)
        group["coord"] = 0.1 * (group["coord"] - group["coord"][:, :1])
        for key, array in group.items():
            file[f"004/{key}"] = array
    result = invoke(tmp_path / "nm.h5")
    assert result.output.count("error: ") == 22
    assert "error: and 4,980 more: atoms closer than 0.3 Å" in result.output
    assert np.array_equal(result.exit_code, 1)


def test_a_file_of_settings_gives_the_data_sets_and_their_format(data: h5py.File, tmp_path: Path) -> None:
    data.move("004/energy", "004/E_wb97m")
    data.close()
    config = tmp_path / "train.yaml"
    config.write_text("data: {fidelity_datasets: {0: a.h5}, y: [energy, forces], keys: {energy: E_wb97m}}\n")
    result = invoke("--config", config)
    assert result.exit_code == 0
    assert result.output.startswith(f"{tmp_path / 'a.h5'}\n")
    assert "energy                30 structures" in result.output
    result = invoke("--config", config, "data.y=[energy,charges]")
    assert result.exit_code == 1
    assert "label 'charges' is not in the data set" in result.output


def test_without_any_data_set_there_is_nothing_to_check(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("seed: 1\n")
    with pytest.raises(ClickException, match="no data file is given"):
        CliRunner().invoke(
            cli, ["check-data", "--config", str(tmp_path / "train.yaml")], standalone_mode=False, catch_exceptions=False
        )


def test_other_files_are_read_only_if_that_is_allowed(data: h5py.File, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["energy"] = data["004/energy"][()]
    del data["004/energy"]
    data["004/energy"] = h5py.ExternalLink("other.h5", "/energy")
    path = data.filename
    refused = check(data)
    assert refused.exit_code == 1
    assert (
        "'energy' is a link to the file 'other.h5', which is not read unless data.allow_external=true" in refused.output
    )
    allowed = invoke(path, "data.allow_external=true")
    assert allowed.exit_code == 0, allowed.output
    assert "energy                30 structures" in allowed.output


def test_places_name_the_frames_of_converted_data(data: h5py.File) -> None:
    rows = len(data["004/numbers"])
    data["004/frame"] = np.arange(rows) + 1000
    data["004/forces"][3, 2, 1] = 1e6
    assert "group 004, row 3 (frame 1003): force outlier" in check(data).output


def test_an_array_that_cannot_number_the_structures_is_ignored(data: h5py.File, tmp_path: Path) -> None:
    data["004/frame"] = h5py.ExternalLink(str(tmp_path / "absent.h5"), "frame")
    data["004/forces"][3, 2, 1] = 1e6
    result = check(data)
    assert result.exit_code == 0
    assert "group 004, row 3: force outlier" in result.output
