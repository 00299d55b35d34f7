"""Checks of a run that starts from loaded weights, before its first step: elements, reference energies, energies."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimnet2mult.config.schema import Config
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.layout import open_file, read_layout, read_rows
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.reference_energies import Sae, sum_references
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.errors import DataError, ModelError
from aimnet2mult.models.initial_weights import InitialWeights
from aimnet2mult.models.source_energies import predict_energy, source_energies
from aimnet2mult.quantities import INPUTS

__all__ = ["check_start", "prepare_start"]

STRUCTURES = 10
"""Number of structures whose energies are compared."""
TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 2e-6
"""Tolerance of an energy: in eV per atom, and relative to its absolute value; models calculate in float32."""

MAX_LEFT = 10.0
"""Largest mean energy, in eV/atom, that reference energies of the same method can leave."""

Structure = dict[str, Tensor]


def prepare_start(loaded: InitialWeights, config: Config, skipped: SkippedRows | None) -> dict[int, Sae]:
    """Check the elements in the data files, and return the reference energies to keep, by fidelity.

    Raises:
        DataError: The source has no parameters for some elements; the message names them, their fidelities, and the
            first structure.
    """
    _check_elements(loaded, config, skipped or {})
    if config.load_reference_energies == "replace":
        return {}
    files = config.data.sae.energy.files
    return {fidelity: energies for fidelity, energies in loaded.reference_energies.items() if fidelity not in files}


def check_start(
    loaded: InitialWeights,
    config: Config,
    model: nn.Module,
    definition: Mapping[str, Any],
    data: MixedData,
    *,
    first_rank: bool,
) -> tuple[str, ...]:
    """Compare energies and reference energies with those of the source, and return lines about them.

    Args:
        loaded: The weights.
        config: The configuration of the run.
        model: The model with these weights.
        definition: The definition of the model.
        data: The data.
        first_rank: Whether to compare energies; the error of one rank ends the others as well.

    Raises:
        DataError: Reference energies to be kept do not fit the data.
        ModelError: The model predicts another energy than the source; the message states both.
    """
    names = config.fidelity_names
    lines = [loaded.summary]
    if first_rank and any(label.name == "energy" for label in config.labels):
        lines.append(_compare_energies(loaded, model, data, definition, names))
    lines += _describe_references(loaded, data, names, replaced=config.load_reference_energies == "replace")
    return (*lines, *_describe_new_elements(loaded, data, names))


def _check_elements(loaded: InitialWeights, config: Config, skipped: SkippedRows) -> None:
    problems = []
    for part in (config.data.fidelity_datasets, config.data.val_fidelity_datasets, config.data.test_fidelity_datasets):
        for fidelity, path in part.items():
            unsupported = loaded.unsupported[fidelity]
            found = _find_elements(Path(path), unsupported, config, skipped) if unsupported else None
            if found is not None:
                problems.append(f"fidelity {config.fidelity_names[fidelity]} contains {found}")
    if problems:
        raise DataError(
            f"{'; '.join(problems)}: {loaded.source.path} has no parameters for these elements; leave the structures "
            "out, or train without --load"
        )


def _find_elements(path: Path, elements: frozenset[int], config: Config, skipped: SkippedRows) -> str | None:
    """Return which of the elements a file contains, and the first structure with one of them; None if there is none."""
    file_format = FileFormat.from_config(config)
    found: set[int] = set()
    place = ""
    with open_file(path) as file:
        for group in read_layout(path, file, (), file_format).groups:
            left_out = skipped.get((str(path), group.name), ())
            for rows in group.blocks():
                numbers = read_rows(group, "numbers", rows, file_format)
                wrong = np.isin(numbers, sorted(elements))
                wrong[np.isin(np.arange(rows.start, rows.stop), left_out)] = False
                found |= {*np.unique(numbers[wrong]).tolist()}
                first = np.flatnonzero(wrong.any(axis=1))[:1]
                place = place or "".join(f"{path}, group {group.name}, row {rows.start + row}" for row in first)
    return f"{join_symbols(sorted(found))}, first in {place}" if found else None


def _describe_references(
    loaded: InitialWeights, data: MixedData, names: Sequence[str], *, replaced: bool
) -> Iterator[str]:
    """Yield a line for each fidelity whose reference energies the source contains: whether they were kept.

    Kept ones are described by the mean of what they leave of the energies of the data; others, by how far the sums of
    the new ones differ.
    """
    for fidelity, source in loaded.reference_energies.items():
        summary = data.summaries[fidelity]
        if not replaced and source == data.saes[fidelity]:
            mean = summary.mean_energy
            if abs(mean) > MAX_LEFT:
                raise DataError(
                    f"load_reference_energies is keep, but the energies of {names[fidelity]} differ from the sums of "
                    f"the reference energies of {loaded.source.path} by {mean:.4g} eV/atom on average: they are of "
                    "another method; set load_reference_energies=replace"
                )
            yield (
                f"{names[fidelity]}: reference energies of {loaded.source.path} kept; the energies in the data are "
                f"{mean:.4g} eV/atom above them on average"
            )
        elif data.saes[fidelity]:
            new, number = data.saes[fidelity], summary.structures
            change = summary.compositions.counts @ [
                new.get(z, 0) - source.get(z, 0) for z in summary.compositions.elements
            ]
            rmsd = np.sqrt(np.sum(number * change**2) / np.sum(number))
            yield (
                f"{names[fidelity]}: reference energies of {loaded.source.path} replaced; the sums of a structure "
                f"differ by {rmsd:.4g} eV (RMS), and so do the predicted energies"
            )


def _compare_energies(
    loaded: InitialWeights, model: nn.Module, data: MixedData, definition: Mapping[str, Any], names: Sequence[str]
) -> str:
    """Compare the energies of some training structures with those that the source predicts, and return a summary.

    Both include the reference energies of the source.

    Raises:
        ModelError: An energy differs; the message states both.
    """
    if loaded.missing:
        return f"energies not compared: {loaded.source.path} does not contain all parameters of the model"
    # In evaluation, the model is at least in float32.
    model = copy.deepcopy(model).to("cpu").eval()
    largest, count = 0.0, 0
    for fidelity, (origin, name) in enumerate(zip(loaded.origins, names, strict=True)):
        chosen = list(_choose(data, fidelity, max(1, STRUCTURES // len(names))))
        expected = source_energies(loaded.source, origin.index, [s for _, s in chosen], definition)
        energies = loaded.source.reference_energies[origin.index]
        for (place, structure), theirs in zip(chosen, expected, strict=True):
            own = predict_energy(model, structure, fidelity)
            ours = own + float(sum_references(structure["numbers"].numpy(), energies)[0])
            if not abs(ours - theirs) <= TOLERANCE * structure["numbers"].numel() + RELATIVE_TOLERANCE * abs(own):
                raise ModelError(
                    f"load: the model with the weights of {loaded.source.path} predicts {ours:.6f} eV for {place} at "
                    f"{name}, but the source itself predicts {theirs:.6f} eV; use the definition with which these "
                    "weights were trained"
                )
            largest, count = max(largest, abs(ours - theirs)), count + 1
    return f"energies of {count} structures equal those of {loaded.source.path} within {largest:.1e} eV"


def _describe_new_elements(loaded: InitialWeights, data: MixedData, names: Sequence[str]) -> Iterator[str]:
    """Yield a line for each fidelity with elements that were not in the training data of the source."""
    for fidelity, origin in enumerate(loaded.origins if loaded.source.elements else ()):
        new = data.summaries[fidelity].elements - loaded.source.elements[origin.index]
        if new:
            yield (
                f"{names[fidelity]}: {join_symbols(sorted(new))} not in the training data of "
                f"{loaded.source.fidelity_names[origin.index]}; their parameters are initial values"
            )


def _choose(data: MixedData, fidelity: int, count: int) -> Iterator[tuple[str, Structure]]:
    """Yield up to ``count`` training structures of a fidelity, of all sizes, with their places."""
    runs = [(group, rows) for group in data.train.groups for index, rows in group.runs if index == fidelity]
    ends = np.cumsum([len(rows) for _, rows in runs])
    total = int(ends[-1])
    for index in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist():
        number = int(np.searchsorted(ends, index, side="right"))
        group, rows = runs[number]
        row = rows.stop - int(ends[number]) + index
        found = group.read(np.array([row]), [*INPUTS, "origin"])
        real = found["numbers"][0] > 0
        yield (
            data.locate(found["origin"])[0],
            {
                "coord": torch.tensor(found["coord"][:, real], dtype=torch.float32),
                "numbers": torch.tensor(found["numbers"][:, real], dtype=torch.int64),
                "charge": torch.tensor(found["charge"], dtype=torch.float32),
                "mult": torch.tensor(found["mult"], dtype=torch.float32),
            },
        )
