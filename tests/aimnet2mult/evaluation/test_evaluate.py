"""An evaluation has the numbers of a validation, and those of an independent calculation in NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aimnet2mult.data.compositions import SYMBOLS
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.evaluate import evaluate
from aimnet2mult.evaluation.request import Request
from aimnet2mult.evaluation.results import Result
from aimnet2mult.models.saved_model import read_saved_model
from support.sample_runs import TrainedRun, read_groups, train_part
from support.tiny_runs import points
from telemetry.units import conversion_factor

KCAL = conversion_factor("E", "eV/particle", "kcal/mol")
Evaluate = Callable[..., Result]


def flat(result: Result) -> dict[str, float]:
    """Return the metrics that a validation records, with its names."""
    values = dict(result.metrics)
    for fidelity, group in result.by["fidelity"].items():
        values |= {f"{fidelity}/{name}": value for name, value in group.items()}
    return values


@pytest.mark.parametrize("weights", ["best", "last"])
def test_the_validation_data_give_the_recorded_values_to_the_last_digit(
    trained: TrainedRun, evaluated: Evaluate, weights: str
) -> None:
    recorded = points(trained.folder)
    best = min(recorded, key=lambda step: recorded[step]["loss"]) if weights == "best" else max(recorded)
    expected = {name: value for name, value in recorded[best].items() if name != "epoch"}
    found = flat(evaluated(weights=weights))
    assert {name: found.get(name) for name in expected} == expected
    assert {"gfn1/E_rmse", "spgfn2/s_r2", "F_mae", "E_atom_rmse", "loss_charges"} <= expected.keys()


def test_the_test_and_the_training_data_give_the_recorded_values_to_the_last_digit(tmp_path: Path) -> None:
    options = (
        "data.test_fraction=0.2",
        "trainer.evaluate_train_every=2",
        "trainer.ema_decay=0.9",
        "trainer.precision=bfloat16",
    )
    run = train_part(tmp_path, *options).folder
    for part, stream, weights in (("test", "test", "best"), ("train", "train_eval", "last")):
        (recorded,) = points(run, stream).values()
        expected = {name: value for name, value in recorded.items() if name not in ("epoch", "weights_iteration")}
        found = flat(evaluate(Request(model=run, part=part, weights=weights), Communicator(), print)[0])
        assert {name: found.get(name) for name in expected} == expected
        assert {"gfn1/E_rmse", "spgfn2/s_r2", "loss_charges"} <= expected.keys()


def errors(trained: TrainedRun, predicted: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the errors and the properties of every structure, by label."""
    found: dict[str, list[dict[str, Any]]] = {"E": [], "F": [], "q": [], "s": []}
    names = {"E": "energy", "F": "forces", "q": "charges", "s": "spin_charges"}
    for path in trained.files:
        predictions = read_groups(predicted / path.name)
        for group, arrays in read_groups(path).items():
            for row in range(len(arrays["numbers"])):
                for label, name in names.items():
                    true = arrays[name][row] if name in arrays else np.nan
                    if np.isfinite(true).all() and np.isfinite(predictions[group][name][row]).all():
                        found[label].append(
                            {
                                "fidelity": path.stem,
                                "size": str(int(group)),
                                "source": arrays["source"][row].decode(),
                                "batch": str(arrays["batch"][row]),
                                "charge": str(arrays["charge"][row]),
                                "mult": str(arrays["mult"][row]),
                                "numbers": arrays["numbers"][row],
                                "error": predictions[group][name][row].astype(np.float64) - true,
                                "place": (str(path), group, row),
                            }
                        )
    return found


def check(values: dict[str, float], label: str, parts: list[NDArray[np.float64]], factor: float) -> None:
    """Compare RMSE, MAE and largest error with those of the errors of each structure."""
    together = np.concatenate([np.ravel(part) for part in parts]) * factor
    assert values[f"{label}_rmse"] == pytest.approx(np.sqrt(np.mean(together**2)), rel=1e-5)
    assert values[f"{label}_mae"] == pytest.approx(np.mean(np.abs(together)), rel=1e-5)
    assert values[f"{label}_max"] == pytest.approx(np.abs(together).max(), rel=1e-5)
    assert values[f"{label}_structures"] == len(parts)


@pytest.fixture(scope="module")
def everything(
    trained: TrainedRun, evaluated: Evaluate, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, Any]]:
    """Evaluate all data of the run, with predictions."""
    folder = tmp_path_factory.mktemp("everything") / "out"
    result = evaluated(part="all", output=folder, predictions=True, plots=False)
    return result, errors(trained, folder / "predictions")


FACTORS = {"E": KCAL, "F": KCAL, "q": 1.0, "s": 1.0}


def test_all_metrics_agree_with_the_written_predictions(everything: tuple[Result, dict[str, Any]]) -> None:
    result, found = everything
    for label, factor in FACTORS.items():
        check(result.metrics, label, [each["error"] for each in found[label]], factor)
    assert result.structures == 2 * 53
    per_atom = np.array([each["error"] / len(each["numbers"]) for each in found["E"]]) * KCAL
    assert result.metrics["E_atom_rmse"] == pytest.approx(np.sqrt(np.mean(per_atom**2)), rel=1e-5)
    assert result.metrics["E_atom_mae"] == pytest.approx(np.mean(np.abs(per_atom)), rel=1e-5)
    assert result.metrics["E_atom_max"] == pytest.approx(np.abs(per_atom).max(), rel=1e-5)


def test_metrics_by_property_are_those_of_its_structures(everything: tuple[Result, dict[str, Any]]) -> None:
    result, found = everything
    assert set(result.by) == {"fidelity", "size", "charge", "mult", "source", "batch", "element"}
    for grouping, groups in result.by.items():
        for label in FACTORS if grouping != "element" else ():
            for group, values in groups.items():
                chosen = [each["error"] for each in found[label] if each[grouping] == group]
                if chosen:
                    check(values, label, chosen, FACTORS[label])
                else:
                    assert f"{label}_rmse" not in values
    assert list(result.by["source"]) == ["md", "opt"]


def test_metrics_by_element_are_those_of_its_atoms_and_of_the_structures_with_it(
    everything: tuple[Result, dict[str, Any]],
) -> None:
    result, found = everything
    for element, values in result.by["element"].items():
        z = SYMBOLS.index(element)
        with_it = {label: [each for each in found[label] if (each["numbers"] == z).any()] for label in FACTORS}
        check(values, "E", [each["error"] for each in with_it["E"]], KCAL)
        for label in "Fqs":
            if with_it[label]:
                chosen = [each["error"][each["numbers"] == z] for each in with_it[label]]
                check(values, label, chosen, FACTORS[label])


def test_r2_is_that_of_the_energies_less_reference_energies(
    trained: TrainedRun, everything: tuple[Result, dict[str, Any]]
) -> None:
    result, found = everything
    references = read_saved_model(trained.folder).reference_energies
    labels, squares = [], 0.0
    for each in found["E"]:
        path, group, row = each["place"]
        energies = references[["gfn1", "spgfn2"].index(each["fidelity"])]
        labels.append(read_groups(Path(path))[group]["energy"][row] - sum(energies[z] for z in each["numbers"]))
        squares += each["error"] ** 2
    expected = 1 - squares / np.sum((np.array(labels) - np.mean(labels)) ** 2)
    assert result.metrics["E_r2"] == pytest.approx(expected, rel=1e-6)


def test_the_worst_structures_are_those_with_the_largest_errors(everything: tuple[Result, dict[str, Any]]) -> None:
    result, found = everything
    for label, factor in FACTORS.items():
        expected = sorted(found[label], key=lambda each: -np.abs(each["error"]).max())[:5]
        assert [(each.file, each.group, each.row) for each in result.worst[label]] == [e["place"] for e in expected]
        largest = [np.abs(each["error"]).max() * factor for each in expected]
        assert [each.error for each in result.worst[label]] == pytest.approx(largest, rel=1e-4)
        assert all(each.frame == 1000 * int(each.group) + each.row for each in result.worst[label])


def test_the_data_files_of_a_run_give_its_errors(evaluated: Evaluate, trained: TrainedRun) -> None:
    whole, files = evaluated(part="all"), evaluated(*trained.files)
    assert files.part is None
    for name, value in whole.metrics.items():
        assert files.metrics[name] == pytest.approx(value, rel=1e-4), name


def test_one_fidelity_of_a_run(evaluated: Evaluate) -> None:
    whole, part = evaluated(), evaluated(fidelity="spgfn2")
    assert part.metrics["F_rmse"] == pytest.approx(whole.by["fidelity"]["spgfn2"]["F_rmse"], rel=1e-6)
    assert "fidelity" not in part.by


def test_only_the_requested_groupings(evaluated: Evaluate) -> None:
    assert list(evaluated(by=["batch", "element"]).by) == ["batch", "element"]
    assert len(evaluated(by=["_id"], part="all").by["_id"]) == 53
