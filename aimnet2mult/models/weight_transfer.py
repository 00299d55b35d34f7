"""Transfer of weights between models with different fidelities."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.models.mixed_fidelity import MixedFidelity

__all__ = ["MIXED_PREFIX", "Origin", "adapt_weights", "count_fidelities", "default_names", "match_fidelities"]

StateDict = dict[str, Tensor]

MIXED_PREFIX = "model."
"""Prefix that ``MixedFidelity`` adds to the names of AIMNet2."""
TABLES = ("afv.weight", ".shifts.weight")
"""Endings of the names of tables with one row per element."""
ROWS_PER_FIDELITY = (64, 128, 129)
"""Rows in the table of a single fidelity: in aimnet, and in two versions of the original trainer. In a definition,
`max_z` sets another number."""


@dataclass(frozen=True)
class Origin:
    """The fidelity of a file from which a fidelity of a model gets its weights."""

    index: int
    is_same: bool
    """Whether it is the same fidelity; otherwise, it provides the initial values of a new one."""


def default_names(count: int) -> tuple[str, ...]:
    """Return the names of fidelities without given names."""
    return tuple(f"fid{index}" for index in range(count))


def match_fidelities(names: Sequence[str], given: Sequence[str]) -> tuple[Origin, ...]:
    """Return for each fidelity in ``names`` the one in ``given`` that its weights come from.

    Fidelities match by name, and by position if one of the two has a default name. All others are new and are
    initialized from the first one.
    """
    by_name = {name: given.index(name) for name in names if name in given}

    def find(index: int, name: str) -> Origin:
        if name in by_name:
            return Origin(by_name[name], is_same=True)
        free = index < len(given) and index not in by_name.values()
        if free and any(re.fullmatch(r"fid\d+", text) for text in (name, given[index])):
            return Origin(index, is_same=True)
        return Origin(0, is_same=False)

    return tuple(find(index, name) for index, name in enumerate(names))


def count_fidelities(state: Mapping[str, Tensor], offset: int, own_rows: int = 0) -> int:
    """Return the number of fidelities in weights whose names have no prefix, from their heads and tables.

    Args:
        state: The weights.
        offset: Shift of the atomic numbers per fidelity.
        own_rows: Rows per fidelity in the model that the weights are for.

    Raises:
        ConfigError: The size of the embedding does not fit ``offset`` and the number of heads.
    """
    heads = {int(name.split(".")[3]) for name in state if ".heads." in name}
    count = max(heads, default=0) + 1
    table = state.get("afv.weight")
    known = {*ROWS_PER_FIDELITY, own_rows}
    if table is None or len(table) in known:
        return count
    rows = len(table)
    # Early versions of the original trainer allocated rows for one fidelity too many.
    possible = [n + 1 for n in range(1, rows // offset + 1) if rows - n * offset in known]
    if not possible or (heads and not {count, count + 1} & {*possible}):
        raise ConfigError(
            f"load: the embedding has {rows} rows, which does not fit fidelity_offset {offset}; set the"
            " fidelity_offset that the weights were trained with, and max_z in the definition if it is not"
            f" {', '.join(map(str, ROWS_PER_FIDELITY))}"
        )
    return count if heads else possible[-1]


def adapt_weights(
    model: nn.Module, given: Mapping[str, Tensor], origins: Sequence[Origin], offset: int
) -> tuple[StateDict, list[str]]:
    """Adapt weights to the parameter names and table sizes of ``model``; return them with notes on the changes.

    Rows of tables that ``given`` does not contain, or that are NaN, keep the values of the model.

    Args:
        model: An AIMNet2 or MixedFidelity.
        given: The weights, for one or several fidelities, with a head for each of them or a single head; their names
            have no prefix.
        origins: The fidelity in ``given`` for each fidelity of the model.
        offset: Shift of the atomic numbers per fidelity in ``given``.
    """
    source = _SourceWeights(given, [origin.index for origin in origins], offset)
    own_offset = model.offset if isinstance(model, MixedFidelity) else 0
    prefix = MIXED_PREFIX if isinstance(model, MixedFidelity) else ""
    state: StateDict = {}
    for name, own in model.state_dict().items():
        plain = name.removeprefix(prefix)
        value = source.find(plain)
        if value is None:
            continue
        state[name] = source.table(plain, own, own_offset) if plain.endswith(TABLES) else value
    unused = {name: value for name, value in given.items() if name not in source.used}
    return state | unused, source.notes


class _SourceWeights:
    """The weights to transfer, keyed by AIMNet2's parameter names without a prefix."""

    def __init__(self, state: Mapping[str, Tensor], origins: Sequence[int], offset: int) -> None:
        self.used: set[str] = set()
        self.notes: list[str] = []
        self._state = state
        self._origins = origins
        self._offset = offset

    def find(self, name: str, fidelity: int = 0) -> Tensor | None:
        """Return the weights for a name of the model, from a head of its origin or from one shared by all."""
        module, heads, rest = name.partition(".heads.")
        if heads:
            index, _, rest = rest.partition(".")
            name, fidelity = f"{module}.{rest}", int(index)
        for candidate in (_with_head(name, self._origins[fidelity]), name):
            if candidate in self._state:
                self.used.add(candidate)
                return self._state[candidate]
        return None

    def table(self, name: str, own: Tensor, own_offset: int) -> Tensor:
        """Return a table in the shape of ``own``."""
        adapted = own.clone()
        rows = len(own) - own_offset * (len(self._origins) - 1)
        sizes = set()
        for fidelity, origin in enumerate(self._origins):
            given = self.find(name, fidelity)
            if given is None or given.shape[1:] != own.shape[1:]:
                # Loading the state dict reports the mismatch.
                return own if given is None else given
            part = given[self._offset * origin :][:rows]
            target = adapted[own_offset * fidelity :][: len(part)]
            known = ~part.isnan().all(dim=1)
            target[known] = part[known].to(own)
            sizes.add(len(given))
        if sizes != {len(own)}:
            self.notes.append(f"{name} resized from {max(sizes)} to {len(own)} rows")
        return adapted


def _with_head(name: str, fidelity: int) -> str:
    words = name.split(".")
    return ".".join([*words[:2], "heads", str(fidelity), *words[2:]]) if name.startswith("outputs.") else name
