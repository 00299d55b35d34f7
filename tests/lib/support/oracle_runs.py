"""The data and the settings of the runs whose published values are recomputed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.merge import write_yaml
from support.oracle import CapturingAdam, CapturingLoss, CapturingWholeLoss, undecorated_loss
from support.published_values import ABBREVIATIONS, LOSSES, WEIGHTS, Plan

__all__ = ["CLIP", "FIDELITIES", "LAST", "PLAN", "VALIDATE_EVERY", "train_config", "write_files"]

FIDELITIES = ("low", "high")
SOURCES = {"low": "gfn1.h5", "high": "spgfn2.h5"}
SLICES = {"train": {"003": slice(0, 40), "004": slice(0, 17)}, "val": {"003": slice(50, 64), "004": slice(50, 63)}}
"""The structures of the sample in each part, by number of atoms."""
BAD: Mapping[str, Mapping[str, Sequence[int]]] = {"train": {"low": (5, 20)}, "val": {"low": (3,), "high": (6, 7)}}
"""The structures of three atoms that get two atoms at one place, so that predictions are NaN."""
CLIP, EPOCHS, VALIDATE_EVERY = 0.05, 2, 4
KCAL = 23.060547830619026
"""kcal/mol for eV."""
PLAN = Plan(
    every=3,
    batches_per_epoch=7,
    lr=2e-3,
    gamma=0.9,
    fidelities=FIDELITIES,
    units={"E": KCAL, "F": KCAL, "q": 1.0, "s": 1.0},
    loss="sums and counts",
)
LAST = EPOCHS * PLAN.batches_per_epoch

Arrays = dict[str, NDArray[Any]]


def write_files(folder: Path) -> None:
    """Write training and validation data of two fidelities with missing labels and padding.

    The first fidelity has no spin charges. In the validation data, structures of three atoms are padded to four, and a
    structure of five atoms is alone in its batch.
    """
    rng = np.random.default_rng(0)
    for part, slices in SLICES.items():
        for name in FIDELITIES:
            with h5py.File(SAMPLE / SOURCES[name]) as whole:
                groups = {size: _take(whole[size], rows, rng) for size, rows in slices.items()}
                single = _take(whole["005"], slice(0, 1), rng, missing=0)
            _spoil(groups["003"], BAD[part].get(name, ()), whole_labels=part == "val")
            if part == "val":
                padded = {key: _pad(key, array) for key, array in groups.pop("003").items()}
                groups["004"] = {key: np.concatenate([padded[key], groups["004"][key]]) for key in padded}
                groups |= {"005": single} if name == "high" else {}
            with h5py.File(folder / f"{name}-{part}.h5", "w") as file:
                for size, arrays in groups.items():
                    for key, array in arrays.items():
                        file[f"{size}/{key}"] = array


def _take(group: Mapping[str, Any], rows: slice, rng: np.random.Generator, missing: float = 0.2) -> Arrays:
    """Return structures of the sample, some without a label or without components of it."""
    arrays = {key: group[key][rows] for key in group if key != "_id"}
    for label in ABBREVIATIONS:
        if label in arrays:
            arrays[label][rng.random(len(arrays[label])) < missing] = np.nan
            arrays[label][rng.random(arrays[label].shape) < missing / 2] = np.nan
    return arrays


def _spoil(arrays: Arrays, rows: Sequence[int], *, whole_labels: bool) -> None:
    """Move an atom of each structure onto another; ``whole_labels`` labels everything."""
    for row in rows:
        arrays["coord"][row, 1] = arrays["coord"][row, 0]
        for label in ABBREVIATIONS if whole_labels else ():
            if label in arrays:
                arrays[label][row] = np.nanmean(arrays[label])


def _pad(key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Add an atom that is padding, with labels that must not count."""
    if key in {"energy", "charge", "mult"}:
        return array
    value = 0 if key in {"numbers", "coord"} else 7
    return np.pad(array, [(0, 0), (0, 1), *[(0, 0)] * (array.ndim - 2)], constant_values=value)


def train_config(folder: Path, data: Path, loss: str = PLAN.loss, **telemetry: Any) -> Path:
    """Write the settings of a run."""
    content = {
        "run_name": "oracle",
        "threads": 1,
        "device": "cpu",
        "data": {
            "fidelity_datasets": {i: str(data / f"{name}-train.h5") for i, name in enumerate(FIDELITIES)},
            "val_fidelity_datasets": {i: str(data / f"{name}-val.h5") for i, name in enumerate(FIDELITIES)},
            "fidelity_names": dict(enumerate(FIDELITIES)),
            "fidelity_weights": {1: 2.0},
            # Structures with two atoms at one place are part of the test.
            "min_distance": 0,
            # The batches of the validation differ in size.
            "samplers": {
                "train": {"batch_size": 8, "batches_per_epoch": PLAN.batches_per_epoch},
                "val": {"batch_size": 10},
            },
        },
        "loss": _loss_section(loss),
        "optimizer": {"class": _path(CapturingAdam), "kwargs": {"lr": PLAN.lr}},
        "scheduler": {
            "class": "torch.optim.lr_scheduler.ExponentialLR",
            "kwargs": {"gamma": PLAN.gamma},
            "step": "iteration",
        },
        "trainer": {"epochs": EPOCHS, "clip_grad_norm": CLIP},
        "record_setup": False,
        "log_frequency": {"val": VALIDATE_EVERY, "plots": 0},
        "telemetry": {"sinks": "none", "every": PLAN.every, "system": 0, "dir": str(folder / "runs"), **telemetry},
    }
    write_yaml(folder / "train.yaml", content)
    return folder / "train.yaml"


def _loss_section(loss: str) -> dict[str, Any]:
    assert loss in LOSSES
    if loss == "a class without components":
        return {"class": _path(CapturingWholeLoss), "kwargs": {}}
    components: dict[str, Any] = {}
    for label, weight in WEIGHTS.items():
        name = f"aimnet2mult.train.loss.{'energy' if label == 'energy' else 'peratom'}_loss_fn"
        kwargs = {} if label == "energy" else {"key_true": label, "key_pred": label}
        components[label] = {"fn": name, "weight": weight, "kwargs": kwargs}
    if loss == "an undecorated component":
        components["charges"] |= {"fn": _path(undecorated_loss), "kwargs": {}}
    return {"class": _path(CapturingLoss), "kwargs": {"components": components}}


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__name__}"
