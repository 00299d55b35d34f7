"""The files from which a training can start, read without executing code: weights, reference energies, and names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.config.legacy.weights import translate_weights
from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.reference_energies import Sae
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.saved_model import SavedModel, read_saved_model
from aimnet2mult.models.script_archive import read_torch_script
from aimnet2mult.models.torch_file import is_torch_script, open_archive
from aimnet2mult.models.weight_transfer import MIXED_PREFIX, count_fidelities, default_names
from aimnet2mult.models.weights import check_arrays, read_state
from telemetry.errors import error_text

__all__ = ["EMBEDDING", "SHIFTS", "WeightSource", "read_source"]

EMBEDDING, SHIFTS = "afv.weight", "outputs.atomic_shift.shifts.weight"
AIMNET_KEYS = ("format_version", "model_yaml", "state_dict", "implemented_species")
"""Keys that tell aimnet's format v2 from other files."""
REFERENCES = "sae_tensor"
"""Name of the reference energies in archives of the original's ``compile_jit``.

The table has (fidelity + 1) · offset + 118 rows.
"""
MAX_SHIFT = 100.0
"""Absolute value, in eV, above which a trained shift must include the energy of an atom."""


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Weights from which a training can start."""

    path: Path
    state: Mapping[str, Tensor]
    """The weights, named as in AIMNet2 or `MixedFidelity`, without a prefix. The rows of the embedding are NaN for
    elements that the source does not support. The atomic shifts do not include reference energies."""
    arrays: Mapping[str, Tensor]
    """The weights as in the file."""
    offset: int
    """Shift of the atomic numbers per fidelity."""
    fidelity_names: tuple[str, ...]
    reference_energies: tuple[Sae, ...]
    """Energies in eV by atomic number for each fidelity; empty for those that are unknown."""
    elements: tuple[frozenset[int], ...] = ()
    """Elements that each fidelity was trained on; empty if unknown."""
    saved: SavedModel | None = None
    """The model, if it is one of this trainer with a description."""
    is_aimnet: bool = False
    """Whether aimnet can evaluate the file."""
    includes_references: bool = False
    """Whether the atomic shifts in the file include the reference energies."""
    notes: tuple[str, ...] = ()

    def unsupported(self, fidelity: int) -> frozenset[int]:
        """Return the elements without parameters: those whose rows of the embedding are NaN."""
        table = self.state.get(EMBEDDING)
        if table is None:
            return frozenset()
        rows = table[self.offset * fidelity :][: self.offset]
        return frozenset((rows.isnan().all(dim=1)).nonzero().flatten().tolist()) - {0}


def read_source(path: Path, offset: int, own_rows: int = 0) -> WeightSource:
    """Read weights, whatever their format.

    Args:
        path: A run folder, whose best weights are read; a file of weights or a checkpoint of this trainer; weights of
            the original trainer; a file in aimnet's format v2; or a TorchScript archive.
        offset: Shift of the atomic numbers per fidelity, for files that do not state it.
        own_rows: Rows per fidelity in the embedding of the model that the weights are for, for the same files.

    Raises:
        ConfigError: The file cannot be read, or contains no weights.
    """
    if path.is_dir():
        return _of_saved_model(read_saved_model(path))
    try:
        # The path of a setting may be a link, unlike the files of a run folder.
        return _read(path, path.resolve(), offset, own_rows)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else "") or f"{error_text(error):.500}"
        raise ConfigError(f"load: {path} does not contain weights: {reason}") from error


def _read(path: Path, file: Path, offset: int, own_rows: int) -> WeightSource:
    with open_archive(file, allow_script=True) as (_, archive):
        script = is_torch_script(archive)
    if script:
        return _of_script(path, read_torch_script(file), offset)
    description, content, _ = read_state(file)
    if description is not None:
        return _of_saved_model(read_saved_model(path))
    if isinstance(content, Mapping) and all(key in content for key in AIMNET_KEYS):
        return _of_aimnet(path, content, offset)
    return _of_arrays(path, translate_weights(content), content, offset, own_rows)


def _of_saved_model(saved: SavedModel) -> WeightSource:
    return WeightSource(
        path=saved.source,
        state=_without_prefix(saved.state),
        arrays=saved.state,
        offset=saved.fidelity_offset,
        fidelity_names=saved.fidelity_names,
        reference_energies=tuple(dict(energies) for energies in saved.reference_energies),
        elements=saved.elements,
        saved=saved,
    )


def _of_arrays(path: Path, state: Any, content: Any, offset: int, own_rows: int = 0) -> WeightSource:
    """Return the source of a state dict, of this trainer before version 0.2 or of the original trainer."""
    check_arrays(state, may_be_nan=_is_embedding)
    state = _without_prefix(state)
    count = count_fidelities(state, offset, own_rows)
    source = WeightSource(
        path=path,
        state=state,
        arrays=content["model"] if isinstance(content.get("model"), Mapping) else content,
        offset=offset,
        fidelity_names=default_names(count),
        reference_energies=({},) * count,
    )
    return _separate(source) if count == 1 and _has_energies_of_atoms(state.get(SHIFTS)) else source


def _of_aimnet(path: Path, content: Mapping[str, Any], offset: int) -> WeightSource:
    """Return the source of a file in aimnet's format v2, in which Coulomb and D3 energies are added by the calculator.

    Short-range Coulomb energies are subtracted instead, with the range that ``LRCoulomb`` has in training.
    """
    arrays = content["state_dict"]
    source = _of_arrays(path, {_with_long_range(name): array for name, array in arrays.items()}, arrays, offset)
    species = {int(z) for z in content["implemented_species"]}
    source = replace(source, is_aimnet=True, notes=("aimnet model", *source.notes))
    return _separate(_restrict(source, lambda z: z in species))


def _of_script(path: Path, arrays: Mapping[str, Tensor], offset: int) -> WeightSource:
    """Return the source of a TorchScript archive: a model, the first one of an ensemble, or one of ``compile_jit``."""
    roots = [name.removesuffix(EMBEDDING) for name in arrays if f".{name}".endswith(f".{EMBEDDING}")]
    if not roots:
        raise ValueError("it is a TorchScript archive without an embedding afv.weight")
    state = {name.removeprefix(roots[0]): array for name, array in arrays.items() if name.startswith(roots[0])}
    # The tables of D3 are constants, which have other names and shapes in aimnet.
    state = {name: array for name, array in state.items() if not name.startswith(("outputs.d3bj.", "outputs.dftd3."))}
    which = f"the first of {len(roots)} models in a" if len(roots) > 1 else "a"
    source = _of_arrays(path, state, state, offset)
    source = replace(source, notes=(f"{which} TorchScript archive, whose code was not executed", *source.notes))
    if REFERENCES in arrays:
        return replace(source, reference_energies=(_reference_energies(arrays[REFERENCES], offset),))
    if not any(source.reference_energies):
        return source
    # Early archives have neither a list of elements nor NaN.
    return _restrict(source, lambda z: source.reference_energies[0].get(z, 0.0) != 0.0)


def _reference_energies(table: Tensor, offset: int) -> Sae:
    """Return the energies by atomic number in the table of ``compile_jit``, which has shifted atomic numbers."""
    given = {z: float(table[z]) for z in table.nonzero().flatten().tolist()}
    start = len(table) - offset - MAX_ELEMENT if max(given, default=0) > MAX_ELEMENT else 0
    return {z - start: energy for z, energy in given.items()}


def _separate(source: WeightSource) -> WeightSource:
    """Move the atomic shifts, which include energies of atoms, to the reference energies.

    In float32, in which shifts are trained, an energy of -70,000 eV would be precise only to 0.008 eV.
    """
    if source.reference_energies[0] or SHIFTS not in source.state:
        return source
    table, unsupported = source.state[SHIFTS].double().flatten(), source.unsupported(0)
    energies = {z: float(table[z]) for z in range(1, len(table)) if z not in unsupported}
    state = {**source.state, SHIFTS: torch.zeros_like(source.state[SHIFTS], dtype=torch.float32)}
    note = "its atomic shifts, which include the energies of atoms, became reference energies"
    return replace(
        source,
        state=state,
        reference_energies=(energies,),
        includes_references=True,
        notes=(*source.notes, note),
    )


def _restrict(source: WeightSource, supports: Callable[[int], bool]) -> WeightSource:
    """Return a source of one fidelity whose embedding is NaN for all elements that it does not support."""
    table = source.state[EMBEDDING].clone()
    dropped = [z for z in range(1, len(table)) if not supports(z)]
    table[dropped] = torch.nan
    energies = {z: energy for z, energy in source.reference_energies[0].items() if supports(z)}
    return replace(source, state={**source.state, EMBEDDING: table}, reference_energies=(energies,))


def _has_energies_of_atoms(shifts: Tensor | None) -> bool:
    return shifts is not None and (shifts.dtype == torch.float64 or bool(shifts.abs().nan_to_num().max() > MAX_SHIFT))


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = MIXED_PREFIX if f"{MIXED_PREFIX}{EMBEDDING}" in state else ""
    return {name.removeprefix(prefix): array for name, array in state.items()}


def _with_long_range(name: str) -> str:
    return name.replace("outputs.srcoulomb.", "outputs.lrcoulomb.", 1)


def _is_embedding(name: str) -> bool:
    return name.removeprefix(MIXED_PREFIX) == EMBEDDING
