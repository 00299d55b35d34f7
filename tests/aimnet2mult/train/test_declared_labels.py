"""Labels that the user declares are trained and measured like the built-in ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.errors import ConfigError, DataError, ModelError
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.labeled_model import LabeledCore
from support.small_groups import make_group
from support.tiny_runs import points
from telemetry.journal.reader import read_header

BOHR = 0.529177210903
"""CODATA 2018, in Å."""
HARTREE = 27.211386245988
"""CODATA 2018, in eV."""

SETTINGS = """
labels:
    volumes: {shape: per_atom, unit: Å^3, metric_unit: bohr^3, abbr: V, text: atomic volumes, loss: {weight: 0.25}}
    gaps: {shape: per_structure, components: 2, unit: eV, abbr: g}
data:
    y: [energy, volumes, gaps]
    keys: {gaps: E_gaps}
    units: {gaps: Hartree}
    samplers: {train: {batch_size: 4}, val: {batch_size: 8}}
loss: {kwargs: {components: {forces: null, charges: null, spin_charges: null}}}
optimizer: {class: torch.optim.Adam, kwargs: {lr: 0.1}, param_groups: {shifts: null}}
trainer: {epochs: 1}
telemetry: {sinks: [], units: {gaps: meV}}
"""


def write(path: Path, seed: int) -> dict[float, dict[str, Any]]:
    """Write structures with volumes and gaps, some of them missing; return these by identity, gaps in eV."""
    rng, found = np.random.default_rng(seed), {}
    with h5py.File(path, "w") as file:
        for atoms, count in ((2, 9), (3, 12)):
            group = make_group(atoms, count, seed=seed)
            group["coord"][:, 0, 0] = np.arange(count) / 64 + atoms + 100 * seed
            group["volumes"] = rng.normal(10, 2, size=(count, atoms))
            group["volumes"][rng.random((count, atoms)) < 0.3] = np.nan
            group["E_gaps"] = rng.normal(size=(count, 2))
            group["E_gaps"][rng.random((count, 2)) < 0.3] = np.nan
            for key, array in group.items():
                file[f"{atoms:03d}/{key}"] = array
            for row, identity in enumerate(group["coord"][:, 0, 0].tolist()):
                # The inputs of the model are float32.
                found[identity] = {"volumes": group["volumes"][row], "gaps": HARTREE * group["E_gaps"][row]}
    return found


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[dict[float, dict[str, Any]]]:
    """Write data, settings and a model; yield the labels of the validation data by identity."""
    write(tmp_path / "a.h5", 0)
    (tmp_path / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    (tmp_path / "model.yaml").write_text("class: support.labeled_model.LabeledCore\n")
    LabeledCore.seen.clear()
    yield write(tmp_path / "val.h5", 1)
    LabeledCore.seen.clear()


def request(folder: Path, *overrides: str, **options: Any) -> Request:
    files = [f"data.fidelity_datasets.0={folder / 'a.h5'}", f"data.val_fidelity_datasets.0={folder / 'val.h5'}"]
    given = {"configs": [folder / "settings.yaml"], "model": folder / "model.yaml", **options}
    return Request(overrides=[*files, f"telemetry.dir={folder / 'runs'}", *overrides], **given)


def pairs(truth: dict[float, dict[str, Any]], name: str) -> np.ndarray:
    """Return prediction and label of every labeled component in the validation, (2, n)."""
    found = []
    for batch in LabeledCore.seen:
        for identity, predicted in zip(batch["identity"].tolist(), batch[name], strict=True):
            if identity in truth:
                label = truth[identity][name].astype(np.float32).reshape(-1).astype(np.float64)
                own = predicted[: len(label)]
                found += [pair for pair in zip(own, label, strict=True) if np.isfinite(pair[1])]
    return np.array(found).T


def test_their_metrics_agree_with_numpy(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    assert train(request(tmp_path)) == 0
    (run,) = (tmp_path / "runs").iterdir()
    (val,) = points(run).values()
    for name, abbr, factor in (("volumes", "V", BOHR**-3), ("gaps", "g", 1e3)):
        pred, true = pairs(truth, name)
        error = pred - true
        assert len(error) > 10
        assert val[f"{abbr}_rmse"] == pytest.approx(factor * np.sqrt(np.mean(error**2)), rel=1e-6)
        assert val[f"{abbr}_mae"] == pytest.approx(factor * np.mean(np.abs(error)), rel=1e-6)
        assert val[f"{abbr}_r2"] == pytest.approx(1 - np.sum(error**2) / np.sum((true - true.mean()) ** 2), rel=1e-5)
        assert val[f"loss_{name}"] == pytest.approx(np.mean(error**2), rel=1e-5)
    parts = [val["loss_energy"], 0.25 * val["loss_volumes"], val["loss_gaps"]]
    assert val["loss"] == pytest.approx(sum(parts) / 2.25, rel=1e-6)

    metrics = read_header(run).metrics
    volumes, gaps = metrics["val/V_rmse"], metrics["train_window/g_rmse"]
    assert (volumes.unit, volumes.source_unit, volumes.label) == ("bohr^3", "Å^3", "RMSE of atomic volumes")
    assert (gaps.unit, gaps.label, gaps.watch, gaps.main) == ("meV", "RMSE of gaps", True, True)


def test_their_definition_cannot_change_on_a_resume(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    assert train(request(tmp_path)) == 0
    (run,) = (tmp_path / "runs").iterdir()
    with pytest.raises(ConfigError, match=r"labels\.volumes\.unit was 'Å\^3' in .* and cannot be 'nm\^3'"):
        train(request(tmp_path, "labels.volumes.unit=nm^3", resume=str(run)))
    assert train(request(tmp_path, "trainer.epochs=2", resume=str(run))) == 0
    assert len(points(run)) == 2


def test_a_model_that_does_not_predict_them_is_an_error(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.TinyCore\n")
    with pytest.raises(ModelError, match="the model does not predict volumes, gaps; add them to the outputs"):
        train(request(tmp_path))


def test_their_shape_in_the_data_is_checked(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"group 002: 'volumes' has shape \(9, 2\), expected \(9, 2, 3\)"):
        train(request(tmp_path, "labels.volumes.components=3"))


# ---- labels that no data set has ---------------------------------------------------------------------


def test_a_label_of_the_defaults_that_no_data_set_has_is_dropped(
    truth: dict[float, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("optimizer: {param_groups: {shifts: null}}\ntelemetry: {sinks: []}\n")
    overrides = ("data.samplers.train.batch_size=8", "trainer.epochs=1")
    assert train(request(tmp_path, *overrides)) == 0
    (run,) = (tmp_path / "runs").iterdir()
    notice = "not trained, because the labels are in no data set: forces, charges, spin_charges"
    assert capsys.readouterr().err.count(notice) == 1
    recorded = read_yaml(run / "train.yaml")
    assert recorded["data"]["y"] == ["energy"]
    assert {name for name, part in recorded["loss"]["kwargs"]["components"].items() if part} == {"energy"}
    assert not [name for name in read_header(run).metrics if "F_" in name or "loss_forces" in name]

    assert train(request(tmp_path, *overrides, "trainer.epochs=2", resume=str(run))) == 0
    assert train(request(tmp_path, *overrides, "trainer.epochs=3", resume="auto")) == 0
    assert len(points(run)) == 3
    assert notice not in capsys.readouterr().err


def test_a_label_that_was_requested_must_be_in_a_data_set(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("data: {y: [energy, forces]}\n")
    with pytest.raises(DataError, match="label 'forces' is not in the data set"):
        train(request(tmp_path))
    (tmp_path / "settings.yaml").write_text("")
    with pytest.raises(DataError, match="label 'charges' is not in the data set"):
        train(request(tmp_path, "data.y=[energy, charges]"))


def test_data_without_any_label_are_an_error(truth: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("")
    with pytest.raises(DataError, match="no data set has any of the labels energy, forces, charges, spin_charges"):
        train(request(tmp_path, "data.keys.energy=E"))
