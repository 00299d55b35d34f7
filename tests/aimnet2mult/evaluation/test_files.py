"""Data files of the user: units, names, missing labels, bad structures, unknown elements, predictions."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.evaluation.results import Result
from aimnet2mult.models.saved_model import read_saved_model
from aimnet2mult.quantities import LABELS
from support.sample_runs import TrainedRun, read_groups

HARTREE = 27.211386245988
"""CODATA 2018, in eV."""
Evaluate = Callable[..., Result]


@pytest.fixture
def data(trained: TrainedRun, tmp_path: Path) -> Path:
    """Return a copy of the first data file."""
    return Path(shutil.copy(trained.files[0], tmp_path / "new.h5"))


def test_predictions_are_total_energies_in_the_rows_of_the_data(
    trained: TrainedRun, evaluated: Evaluate, data: Path, tmp_path: Path
) -> None:
    result = evaluated(data, fidelity="gfn1", output=tmp_path / "out", predictions=True, plots=False)
    predicted, given = read_groups(tmp_path / "out" / "predictions" / "new.h5"), read_groups(data)
    differences = [predicted[name]["energy"] - given[name]["energy"] for name in given]
    rmse = np.sqrt(np.mean(np.concatenate(differences) ** 2))
    assert result.metrics["E_rmse"] == pytest.approx(rmse * 23.060547830619, rel=1e-5)
    for name, arrays in given.items():
        for key in ("numbers", "coord", "charge", "mult", "frame"):
            assert np.array_equal(predicted[name][key], arrays[key])
    with h5py.File(tmp_path / "out" / "predictions" / "new.h5") as file:
        units = {key: array.attrs.get("unit") for key, array in file["003"].items()}
    assert (units["energy"], units["forces"], units["coord"], units["charges"]) == ("eV", "eV/Å", "Å", "e")


def test_predictions_are_a_data_file_that_the_model_fits_exactly(
    evaluated: Evaluate, data: Path, tmp_path: Path
) -> None:
    evaluated(data, fidelity="gfn1", output=tmp_path / "out", predictions=True, plots=False)
    predictions = tmp_path / "out" / "predictions" / "new.h5"
    assert check_files([predictions], labels=[LABELS["energy"], LABELS["forces"]]).ok
    again = evaluated(predictions, fidelity="gfn1").metrics
    assert again["E_max"] < 1e-3
    assert again["F_max"] < 1e-3


def test_structures_of_other_parts_are_nan_in_the_predictions(
    trained: TrainedRun, evaluated: Evaluate, tmp_path: Path
) -> None:
    result = evaluated(output=tmp_path / "out", predictions=True, plots=False)
    groups = [
        group for path in trained.files for group in read_groups(tmp_path / "out/predictions" / path.name).values()
    ]
    energies = np.concatenate([group["energy"] for group in groups])
    assert np.isfinite(energies).sum() == result.structures < len(energies)
    # The data of the first fidelity have no spin charges.
    for path, are_trained in zip(trained.files, (False, True), strict=True):
        spins = [group["spin_charges"] for group in read_groups(tmp_path / "out/predictions" / path.name).values()]
        assert any(np.isfinite(values).any() for values in spins) == are_trained


def test_names_and_units_are_those_of_the_data(evaluated: Evaluate, data: Path, tmp_path: Path) -> None:
    expected = evaluated(data, fidelity="gfn1")
    with h5py.File(data, "r+") as file:
        for group in file.values():
            group["E_dft"] = group["energy"][:] / HARTREE
            del group["energy"]
    settings = ["data.keys.energy=E_dft", "data.units.energy=Ha"]
    options = {"output": tmp_path / "out", "predictions": True, "plots": False}
    result = evaluated(data, fidelity="gfn1", overrides=settings, **options)
    assert result.metrics["E_rmse"] == pytest.approx(expected.metrics["E_rmse"], rel=1e-5)
    with h5py.File(tmp_path / "out" / "predictions" / "new.h5") as file, h5py.File(data) as given:
        assert file["003/E_dft"].attrs["unit"] == "Ha"
        assert file["003/E_dft"][:] == pytest.approx(given["003/E_dft"][:], abs=1)


def test_the_units_of_the_results_can_be_changed(evaluated: Evaluate) -> None:
    usual, other = evaluated(), evaluated(overrides=["telemetry.units.energy=eV"])
    assert other.units["E_rmse"] == "eV"
    assert other.metrics["E_max"] * 23.060547830619 == pytest.approx(usual.metrics["E_max"])
    assert other.worst["E"][0].error == other.metrics["E_max"]


def test_a_label_may_be_missing(evaluated: Evaluate, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        for group in file.values():
            del group["forces"]
    result = evaluated(data, fidelity="gfn1")
    assert "F_rmse" not in result.metrics
    assert "E_rmse" in result.metrics
    assert result.worst["F"] == []


def test_structures_without_labels_are_predicted(evaluated: Evaluate, data: Path, tmp_path: Path) -> None:
    with h5py.File(data, "r+") as file:
        for group in file.values():
            for label in ("energy", "forces", "charges"):
                del group[label]
    warnings: list[str] = []
    result = evaluated(data, fidelity="gfn1", output=tmp_path / "out", predictions=True, warnings=warnings)
    assert warnings[0].startswith(f"{data} has no energy or forces or charges")
    assert not any(name.endswith(("_rmse", "_max")) for name in result.metrics)
    predicted = read_groups(tmp_path / "out" / "predictions" / "new.h5")
    assert all(np.isfinite(group["energy"]).all() for group in predicted.values())


def test_all_bad_structures_are_reported_or_left_out(evaluated: Evaluate, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        file["003/coord"][4, 1] = file["003/coord"][4, 0]
        file["005/coord"][2, 0] = np.nan
    with pytest.raises(DataError) as error:
        evaluated(data, fidelity="gfn1")
    assert f"{data}, group 003, row 4 (frame 3004): atoms 0 and 1 are 0 Å apart" in str(error.value)
    assert f"{data}, group 005, row 2" in str(error.value)
    result = evaluated(data, fidelity="gfn1", overrides=["data.on_bad_structure=skip"])
    assert (result.structures, result.left_out) == (51, 2)


def test_elements_that_the_fidelity_has_not_been_trained_on(
    trained: TrainedRun, evaluated: Evaluate, data: Path
) -> None:
    assert 53 not in read_saved_model(trained.folder).elements[0]
    with h5py.File(data, "r+") as file:
        file["003/numbers"][[2, 5], 0] = 53
    with pytest.raises(DataError) as error:
        evaluated(data, fidelity="gfn1")
    expected = f"{data}: the model has not been trained on I, in 2 structures; gfn1 has been trained on H, "
    assert str(error.value).startswith(expected)
    assert str(error.value).endswith("data.on_bad_structure=skip")
    warnings: list[str] = []
    result = evaluated(data, fidelity="gfn1", overrides=["data.on_bad_structure=skip"], warnings=warnings)
    assert (result.structures, result.left_out) == (51, 2)
    assert warnings[-1].startswith(expected)
    assert warnings[-1].endswith("; left out")


def test_changed_data_of_a_run_are_refused(trained: TrainedRun, evaluated: Evaluate, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        file["003/energy"][0] += 1
    with pytest.raises(DataError, match="the data have changed since the start of"):
        evaluated(overrides=[f"data.fidelity_datasets.0={data}"])


def test_a_run_that_was_trained_with_tf32_is_evaluated_where_there_is_none(
    trained: TrainedRun, evaluated: Evaluate, tmp_path: Path
) -> None:
    run = shutil.copytree(trained.folder, tmp_path / "run")
    settings = (run / "train.yaml").read_text()
    assert "tf32: false" in settings
    (run / "train.yaml").write_text(settings.replace("tf32: false", "tf32: true"))
    assert evaluated(model=run).metrics == evaluated().metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fidelity": "gfn3"}, r"no fidelity 'gfn3' in .*; it has gfn1, spgfn2"),
        ({"overrides": ["seed=1"]}, "seed cannot be changed here; only device, "),
        ({"overrides": ["data.val_fraction=0.5"]}, "data.val_fraction cannot be changed here"),
        ({"overrides": ["data.units.energy=Ha"]}, "data.units.energy is for the evaluation of data files of your own"),
        ({"overrides": ["data.fidelity_datasets.0=none.h5"]}, "no file .*none.h5; if it has moved, add data.fidelity_"),
        ({"overrides": ["device=tpu"]}, "device"),
        ({"part": "test"}, r"--split test: the run has no such structures; it has train \(\d+\), val \(\d+\)"),
        ({"by": ["sourrce"]}, r"--by: the structures have no sourrce, only .*\. Did you mean 'source'\?"),
    ],
)
def test_requests_that_do_not_fit_the_run(evaluated: Evaluate, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluated(**options)


def test_the_number_of_files_must_be_that_of_the_fidelities(evaluated: Evaluate, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 fidelities \(gfn1, spgfn2\), but the number of data files is 1"):
        evaluated(data)


def test_an_array_with_many_values_is_a_tag_only_if_it_is_requested(evaluated: Evaluate, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        for group in file.values():
            group["charges_2"] = np.zeros((len(group["numbers"]), 2), np.int8)
            group["weight"] = np.random.default_rng(0).normal(size=len(group["numbers"]))
        del file["003/batch"]
    assert list(evaluated(data, fidelity="gfn1").by) == ["size", "charge", "mult", "source", "batch", "element"]
    assert list(evaluated(data, fidelity="gfn1").by["batch"]) == ["(none)", "0", "1"]


def test_arrays_named_like_other_groupings_are_no_tags(evaluated: Evaluate, data: Path) -> None:
    expected = evaluated(data, fidelity="gfn1").by
    with h5py.File(data, "r+") as file:
        for group in file.values():
            group.move("charge", "Q")
            for name in ("fidelity", "element", "size", "charge"):
                group[name] = np.arange(len(group["numbers"])) % 2
    assert evaluated(data, fidelity="gfn1", overrides=["data.keys.charge=Q"]).by == expected


def test_a_folder_of_npz_files_has_the_results_of_an_hdf5_file(evaluated: Evaluate, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    for name, arrays in read_groups(data).items():
        arrays["source"] = np.array([text.decode() for text in arrays["source"]])
        np.savez(folder / f"{name}.npz", **{key: array for key, array in arrays.items() if key != "_id"})
    expected, found = (
        evaluated(path, fidelity="gfn1", output=tmp_path / f"{path.stem}-out", predictions=True, plots=False)
        for path in (data, folder)
    )
    assert found.metrics == expected.metrics
    assert found.by == expected.by
    assert "source" in found.by
    for label, worst in expected.worst.items():
        assert [each.frame for each in found.worst[label]] == [each.frame for each in worst]
    for name, predictions in read_groups(tmp_path / "new-out/predictions/new.h5").items():
        for key, array in read_groups(tmp_path / "npz-out/predictions/npz.h5")[name].items():
            np.testing.assert_array_equal(array, predictions[key])


def test_linked_groups_have_frames_and_tags(evaluated: Evaluate, data: Path, tmp_path: Path) -> None:
    expected = evaluated(data, fidelity="gfn1")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        for name in read_groups(data):
            file[name] = h5py.ExternalLink(data, name)
    linked = evaluated(tmp_path / "links.h5", fidelity="gfn1", overrides=["data.allow_external=true"])
    assert linked.by == expected.by
    assert [each.frame for each in linked.worst["E"]] == [each.frame for each in expected.worst["E"]]
    assert linked.worst["E"][0].frame is not None
