"""Transfer of weights between models with different fidelities."""

from collections.abc import Mapping

from aimnet.models import AIMNet2
from torch import Tensor, nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.models.mixed_fidelity import MixedFidelity

__all__ = ["adapt_weights"]

StateDict = dict[str, Tensor]

MIXED_PREFIX = "model."
"""Prefix that ``MixedFidelity`` adds to the names of AIMNet2."""
TABLES = ("afv.weight", ".shifts.weight")
"""Endings of the names of tables with one row per element."""
ROWS_PER_FIDELITY = (64, 128, 129)
"""Rows in the table of a single fidelity: in aimnet, and in two versions of the original trainer."""


def adapt_weights(model: nn.Module, given: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """Adapt weights to the parameter names and table sizes of ``model``; return them with notes on the changes.

    ``given`` may be for one or several fidelities, with a head for each of them or a single head. Fidelities that it
    does not contain are initialized from fidelity 0. Tables are cut to the rows of the model. For a model that is
    neither an AIMNet2 nor a MixedFidelity, the weights are returned unchanged.

    Raises:
        ConfigError: A table was trained with a different ``fidelity_offset``.
    """
    if not isinstance(model, AIMNet2 | MixedFidelity):
        return dict(given), []
    source = _SourceWeights({name.removeprefix(MIXED_PREFIX): value for name, value in given.items()})
    mixed = isinstance(model, MixedFidelity)
    fidelities, offset = (model.n_fidelities, model.offset) if mixed else (1, 0)
    source.check_offset(offset)
    state: StateDict = {}
    for name, own in model.state_dict().items():
        value = source.find(name.removeprefix(MIXED_PREFIX) if mixed else name)
        if value is None:
            continue
        if name.endswith(TABLES):
            value = source.table(name.removeprefix(MIXED_PREFIX), own, fidelities, offset)
        state[name] = value
    unused = {name: value for name, value in source.state.items() if name not in source.used}
    notes = source.notes
    new = range(min(source.fidelities, fidelities), fidelities)
    if new:
        notes.append(f"fidelity {', '.join(map(str, new))} initialized from fidelity 0")
    return state | unused, notes


class _SourceWeights:
    """The weights to transfer, keyed by AIMNet2's parameter names without a prefix."""

    def __init__(self, state: StateDict) -> None:
        self.state = state
        self.used: set[str] = set()
        self.notes: list[str] = []
        self._heads = {int(name.split(".")[3]) for name in state if ".heads." in name}
        self.fidelities = max(self._heads, default=0) + 1

    def check_offset(self, offset: int) -> None:
        """Check that the size of the embedding fits the offset and the number of heads."""
        table = self.state.get("afv.weight")
        if table is None or not offset or len(table) in ROWS_PER_FIDELITY:
            return
        rows = len(table)
        # Early versions of the original trainer allocated rows for one fidelity too many.
        possible = [n + 1 for n in range(1, rows // offset + 1) if rows - n * offset in ROWS_PER_FIDELITY]
        if not possible or (self._heads and not {self.fidelities, self.fidelities + 1} & {*possible}):
            raise ConfigError(
                f"load: the embedding has {rows} rows, which does not fit fidelity_offset {offset}; set the"
                " fidelity_offset that the weights were trained with"
            )
        if not self._heads:
            self.fidelities = possible[-1]

    def find(self, name: str) -> Tensor | None:
        """Return the weights for a name, taken if necessary from fidelity 0 or from a head shared by all fidelities."""
        for candidate in _candidates(name):
            if candidate in self.state:
                self.used.add(candidate)
                return self.state[candidate]
        return None

    def table(self, name: str, own: Tensor, fidelities: int, offset: int) -> Tensor:
        """Return a table in the shape of ``own``; rows that the source does not contain keep the values of ``own``."""
        adapted = own.clone()
        rows = len(own) - offset * (fidelities - 1)
        sizes = set()
        for fidelity in range(fidelities):
            given = self.find(_head_name(name, fidelity))
            start = offset * (fidelity if fidelity < self.fidelities else 0)
            if given is None or given.shape[1:] != own.shape[1:]:
                # Loading the state dict reports the mismatch.
                return own if given is None else given
            part = given[start : start + rows]
            adapted[offset * fidelity : offset * fidelity + len(part)] = part
            sizes.add(len(given))
        if sizes != {len(own)}:
            self.notes.append(f"{name} resized from {max(sizes)} to {len(own)} rows")
        return adapted


def _candidates(name: str) -> list[str]:
    module, heads, rest = name.partition(".heads.")
    if heads:
        rest = rest.partition(".")[2]
        return [name, f"{module}.heads.0.{rest}", f"{module}.{rest}"]
    return [name, _with_head(name, 0)]


def _head_name(name: str, fidelity: int) -> str:
    """Return the name of the table of one fidelity; tables outside the outputs have a single name."""
    return _with_head(name, fidelity) if name.startswith("outputs.") else name


def _with_head(name: str, fidelity: int) -> str:
    words = name.split(".")
    return ".".join([*words[:2], "heads", str(fidelity), *words[2:]])
