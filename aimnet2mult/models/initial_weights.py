"""Initial weights of a model, from a file or a run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aimnet.models import AIMNet2
from torch import nn

from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.reference_energies import Sae
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.build import unwrap
from aimnet2mult.models.mixed_fidelity import MixedFidelity
from aimnet2mult.models.weight_sources import EMBEDDING, WeightSource, read_source
from aimnet2mult.models.weight_transfer import Origin, adapt_weights, default_names, match_fidelities
from telemetry.errors import error_text

__all__ = ["InitialWeights", "load_weights"]

MAX_NAMES = 4
"""Maximum number of names listed in a message."""


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Where the initial weights of a model come from; tuples have one entry per fidelity of the model."""

    source: WeightSource
    origins: tuple[Origin, ...]
    unsupported: tuple[frozenset[int], ...]
    """Elements for which the source has no parameters; those of the model are arbitrary."""
    missing: tuple[str, ...]
    """Parameters of the model that the source does not contain."""
    summary: str
    """One line for the user."""

    @property
    def reference_energies(self) -> Mapping[int, Sae]:
        """The reference energies of the source, by fidelity of the model, for those that the source contains."""
        given = self.source.reference_energies
        found = {fidelity: given[origin.index] for fidelity, origin in enumerate(self.origins) if origin.is_same}
        return {fidelity: energies for fidelity, energies in found.items() if energies}


def load_weights(
    model: nn.Module, path: Path, names: Sequence[str] | None = None, *, offset: int = 100
) -> InitialWeights:
    """Load the weights in a file or run folder that belong to this model.

    Weights that it does not contain keep their initial values.

    Args:
        model: The model.
        path: A source as described in `read_source`.
        names: Names of the model's fidelities; by default, fid0, fid1, …
        offset: Shift of the atomic numbers per fidelity in a file that does not state it.

    Raises:
        ConfigError: The file cannot be read, a shape differs, or the file has no weights of this model.
    """
    core = unwrap(model)
    fidelities, offset = (core.n_fidelities, core.offset) if isinstance(core, MixedFidelity) else (1, offset)
    names = names or default_names(fidelities)
    source = read_source(path, offset, _count_rows(core))
    origins = match_fidelities(names, source.fidelity_names)
    try:
        if isinstance(core, AIMNet2 | MixedFidelity):
            state, notes = adapt_weights(core, source.state, origins, source.offset)
        else:
            state, notes = dict(source.arrays), []
        missing, unexpected = core.load_state_dict(state, strict=False)
    except Exception as error:  # any, for arrays of other names and shapes than those of a model
        reason = f"{error_text(error):.500}"
        raise ConfigError(f"load: {path} does not contain weights of this model: {reason}") from error
    total, loaded = len(core.state_dict()), len(core.state_dict()) - len(missing)
    if not loaded:
        raise ConfigError(f"load: {path} contains no weights of this model; it contains {_shorten(list(state))}")
    # Buffers are constants of the definition.
    missing = [name for name, _ in core.named_parameters() if name in missing]
    summary = [f"weights: {loaded} of {total} arrays loaded from {source.path}", *source.notes, *notes]
    summary += _describe_origins(names, origins, source)
    unsupported = tuple(source.unsupported(origin.index) for origin in origins)
    summary += _describe_unsupported(unsupported, len(source.state.get(EMBEDDING, ())))
    if missing:
        summary.append(f"initial values kept for {_shorten(missing)}")
    if unexpected:
        summary.append(f"not used: {_shorten(unexpected)}")
    return InitialWeights(
        source=source,
        origins=origins,
        unsupported=unsupported,
        missing=tuple(missing),
        summary="; ".join(summary),
    )


def _count_rows(core: nn.Module) -> int:
    """Return the number of rows per fidelity in the embedding of a model; 0 for other models than AIMNet2."""
    if isinstance(core, MixedFidelity):
        return len(core.model.afv.weight) - core.offset * (core.n_fidelities - 1)
    return len(core.afv.weight) if isinstance(core, AIMNet2) else 0


def _describe_origins(names: Sequence[str], origins: Sequence[Origin], source: WeightSource) -> list[str]:
    lines = []
    for name, origin in zip(names, origins, strict=True):
        given = source.fidelity_names[origin.index]
        if not origin.is_same:
            lines.append(f"{name} initialized from {given}")
        elif name != given:
            lines.append(f"{name} continues {given}")
    return lines


def _describe_unsupported(unsupported: Sequence[frozenset[int]], known: int) -> list[str]:
    """Return the elements that cannot be trained, or all others if these are fewer."""
    elements = frozenset.union(*unsupported)
    if not elements:
        return []
    others = frozenset(range(1, known)) - elements
    if len(others) < len(elements):
        return [f"with parameters for {join_symbols(sorted(others))} only; no other element can be trained"]
    return [f"without parameters for {join_symbols(sorted(elements))}, which cannot be trained"]


def _shorten(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
