"""Export of one fidelity in the format of aimnet's calculators (version 2)."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from aimnet.models.artifact_validation import (
    ALLOWED_MODEL_IMPORT_PATHS,
    resolve_model_import_policy,
    validate_v2_artifact_with_policy,
)
from aimnet.models.utils import (
    has_d3ts_in_config,
    load_state_dict_checked,
    strip_lr_modules_from_yaml,
)
from aimnet.train.export_model import bake_sae_into_model, extract_cutoff, mask_not_implemented_species
from torch import Tensor, nn

from aimnet2mult.config.trust import named_in
from aimnet2mult.config.yaml_text import dump
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.errors import ModelError
from aimnet2mult.models.build import build_model
from aimnet2mult.models.definition import ROWS
from aimnet2mult.models.one_fidelity import EMBEDDING, weights_of_fidelity
from aimnet2mult.models.outputs import rename_outputs
from aimnet2mult.models.saved_model import SavedModel
from aimnet2mult.quantities import LABELS
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import atomic_write, remove_temporary_files

__all__ = ["Export", "OneFidelity", "build_one", "export_fidelity", "take_one", "write_export"]


@dataclass(frozen=True, kw_only=True)
class OneFidelity:
    """One fidelity of a model, as an AIMNet2."""

    definition: dict[str, Any]
    state: dict[str, Tensor]
    energies: dict[int, float]
    """Reference energy of each element in eV."""

    @property
    def species(self) -> list[int]:
        """Atomic numbers of the elements."""
        return sorted(self.energies)


@dataclass(frozen=True, kw_only=True)
class Export:
    """A model in aimnet's format, and what its user has to know."""

    artifact: dict[str, Any]
    import_paths: tuple[str, ...]
    """Classes that aimnet trusts only if the user names them as ``model_import_paths``."""
    coulomb: Mapping[str, Any]
    """Arguments of the model's Coulomb module, some of which are not part of the format; empty without one."""
    dispersion: Mapping[str, Any]
    """Arguments of the model's D3 module; empty without one."""


def export_fidelity(saved: SavedModel, fidelity: int, d3: Mapping[str, float] | None = None) -> Export:
    """Return one fidelity in aimnet's format, with its reference energies.

    Args:
        saved: The model.
        fidelity: Index of the fidelity.
        d3: Parameters of a D3(BJ) correction that the calculators add to a model without dispersion.

    Raises:
        ModelError: The model cannot be represented in this format; the message states why.
    """
    one = take_one(saved, fidelity)
    outputs = one.definition["kwargs"]["outputs"]
    if d3 and (own := [name for name in ("dftd3", "d3ts") if name in outputs]):
        raise ModelError(f"--d3: the model has a dispersion correction of its own, {outputs[own[0]]['class']}")
    import_paths = _import_paths(one.definition)
    policy = resolve_model_import_policy(import_paths or None, "extend")
    try:
        artifact = _build_artifact(one, d3)
        validate_v2_artifact_with_policy(artifact, policy, validation="canonical")
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"aimnet's format does not support this model: {error_text(error):.500}") from error
    return Export(
        artifact=artifact,
        import_paths=import_paths,
        coulomb=outputs.get("lrcoulomb", {}).get("kwargs", {}),
        dispersion=outputs.get("dftd3", {}).get("kwargs", {}),
    )


def write_export(export: Export, path: Path) -> None:
    """Write an exported model atomically.

    Raises:
        OSError: The file cannot be written; an earlier version of it is kept.
    """
    buffer = io.BytesIO()
    torch.save(export.artifact, buffer)
    remove_temporary_files(path)
    atomic_write(path, buffer.getbuffer(), mode=0o666)


def take_one(saved: SavedModel, fidelity: int) -> OneFidelity:
    """Return one fidelity of a model, with aimnet's names of the output modules.

    Raises:
        ModelError: It has no energies, or nothing that could contain its reference energies.
    """
    names = [label.name for label in saved.labels]
    energies = saved.reference_energies[fidelity]
    if "energy" not in names or not energies:
        raise ModelError(f"the fidelity {saved.fidelity_names[fidelity]} was trained without energies")
    definition, state = rename_outputs(saved.definition, weights_of_fidelity(saved, fidelity))
    if "atomic_shift" not in definition["kwargs"]["outputs"]:
        raise ModelError("the model has no aimnet.modules.AtomicShift, which contains the reference energies")
    elements = sorted(saved.elements_of(fidelity))
    return OneFidelity(definition=definition, state=state, energies={z: energies[z] for z in elements})


def build_one(one: OneFidelity) -> tuple[nn.Module, float]:
    """Build a model without reference energies, with NaN for other elements, and return it with its cutoff in Å.

    Raises:
        ModelError: The model cannot be built.
        ValueError: The model has elements that aimnet does not support.
        RuntimeError: The weights do not fit the definition.
    """
    # Building a model draws initial values, which are replaced.
    with torch.random.fork_rng(devices=[]):
        model = build_model(one.definition, labels=(LABELS["energy"],))
    _load(model, one)
    model.requires_grad_(False)
    mask_not_implemented_species(model, one.species)
    return model, extract_cutoff(model)


def _build_artifact(one: OneFidelity, d3: Mapping[str, float] | None) -> dict[str, Any]:
    core, coulomb_mode, has_d3, own_d3, rc, envelope, _ = strip_lr_modules_from_yaml(one.definition, one.state)
    # aimnet has tables of one size only; the tables are cut to it.
    core["kwargs"].pop(ROWS, None)
    text = dump(core)
    model, cutoff = build_one(replace(one, definition=core))
    bake_sae_into_model(model, one.energies)
    embedded = coulomb_mode == "sr_embedded"
    has_d3ts = has_d3ts_in_config(core)
    return {
        "format_version": 2,
        "model_yaml": text,
        "cutoff": cutoff,
        "needs_coulomb": embedded,
        "needs_dispersion": has_d3 or d3 is not None,
        "coulomb_mode": coulomb_mode,
        "coulomb_sr_rc": rc if embedded else None,
        "coulomb_sr_envelope": envelope if embedded else None,
        "d3_params": dict(d3) if d3 is not None else own_d3,
        "has_embedded_lr": embedded or has_d3ts,
        "has_embedded_d3ts": has_d3ts,
        "implemented_species": one.species,
        "state_dict": model.state_dict(),
    }


def _load(model: nn.Module, one: OneFidelity) -> None:
    """Load the weights, with tables cut to the elements of aimnet's format."""
    own = model.state_dict()
    rows = len(own[EMBEDDING])
    if beyond := [z for z in one.species if z >= rows]:
        raise ValueError(f"it has elements up to {rows - 1}, and the model was trained on {join_symbols(beyond)}")
    given = {
        name: value[: len(own[name])] if _is_longer(name, value, own) else value for name, value in one.state.items()
    }
    load_state_dict_checked(model.eval(), given, source="the model", unexpected="error")


def _is_longer(name: str, value: Tensor, own: Mapping[str, Tensor]) -> bool:
    is_table = name == EMBEDDING or name.endswith(".shifts.weight")
    return is_table and name in own and len(value) > len(own[name])


def _import_paths(definition: Mapping[str, Any]) -> tuple[str, ...]:
    named = {str(path) for _, path in named_in(definition)}
    replaced = {"aimnet.modules.LRCoulomb", "aimnet.modules.DFTD3"}
    return tuple(sorted(named - ALLOWED_MODEL_IMPORT_PATHS - replaced))
