"""Fits the weights of one set of fidelities to a model of another."""

from collections.abc import Mapping

from aimnet.models import AIMNet2
from torch import Tensor, nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.models.mixed_fidelity import MixedFidelity

__all__ = ["adapt_weights"]

State = dict[str, Tensor]

PREFIX = "model."
TABLES = ("afv.weight", ".shifts.weight")

# Rows that the table of a single fidelity has: aimnet's, and two that other versions made.
ROWS = (64, 128, 129)


def adapt_weights(model: nn.Module, given: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Return a state by the names and with the tables of ``model``, and what was done for that, in words.

    ``given`` may be of one fidelity or of several, with a head for each of them or with one for all. A fidelity that
    it does not have gets what its first one has. Of a table of elements those rows are taken that the model has.
    A model that is no AIMNet2, alone or mixed, gets its state as it is.

    Raises ConfigError for a table that was made with another ``fidelity_offset``.
    """
    if not isinstance(model, AIMNet2 | MixedFidelity):
        return dict(given), []
    source = _Source({name.removeprefix(PREFIX): value for name, value in given.items()})
    mixed = isinstance(model, MixedFidelity)
    fidelities, offset = (model.n_fidelities, model.offset) if mixed else (1, 0)
    source.check_offset(offset)
    state: State = {}
    for name, own in model.state_dict().items():
        value = source.find(name.removeprefix(PREFIX) if mixed else name)
        if value is None:
            continue
        if name.endswith(TABLES):
            value = source.table(name.removeprefix(PREFIX), own, fidelities, offset)
        state[name] = value
    unused = {name: source.state[name] for name in source.state if name not in source.used}
    notes = source.notes
    new = range(min(source.fidelities, fidelities), fidelities)
    if new:
        notes.append(f"fidelity {', '.join(map(str, new))} begins as fidelity 0")
    return state | unused, notes


class _Source:
    """The weights that are given, by the names of a model without a prefix."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.used: set[str] = set()
        self.notes: list[str] = []
        self._heads = {int(name.split(".")[3]) for name in state if ".heads." in name}
        self.fidelities = max(self._heads, default=0) + 1

    def check_offset(self, offset: int) -> None:
        """See that the embedding has so many fidelities as there are heads, that far apart."""
        table = self.state.get("afv.weight")
        if table is None or not offset or len(table) in ROWS:
            return
        rows = len(table)
        # The first versions of the original had room for one more fidelity.
        possible = [n + 1 for n in range(1, rows // offset + 1) if rows - n * offset in ROWS]
        if not possible or (self._heads and not {self.fidelities, self.fidelities + 1} & {*possible}):
            raise ConfigError(
                f"load: the embedding has {rows} rows, which are none for fidelity_offset {offset}; give the"
                " fidelity_offset that the weights were trained with"
            )
        if not self._heads:
            self.fidelities = possible[-1]

    def find(self, name: str) -> Tensor | None:
        """Return what is given for a name, from the head of another fidelity or from one for all if need be."""
        for candidate in self._candidates(name):
            if candidate in self.state:
                self.used.add(candidate)
                return self.state[candidate]
        return None

    def table(self, name: str, own: Tensor, fidelities: int, offset: int) -> Tensor:
        """Return a table of elements in the shape of ``own``; rows that are not given stay as they are there."""
        fit = own.clone()
        rows = len(own) - offset * (fidelities - 1)
        sizes = set()
        for fidelity in range(fidelities):
            given = self.find(_head(name, fidelity))
            start = offset * (fidelity if fidelity < self.fidelities else 0)
            if given is None or given.shape[1:] != own.shape[1:]:
                # Whoever loads it says what is wrong.
                return own if given is None else given
            part = given[start : start + rows]
            fit[offset * fidelity : offset * fidelity + len(part)] = part
            sizes.add(len(given))
        if sizes != {len(own)}:
            self.notes.append(f"{name} adapt_weights from {max(sizes)} to {len(own)} rows")
        return fit

    def _candidates(self, name: str) -> list[str]:
        module, heads, rest = name.partition(".heads.")
        if heads:
            rest = rest.partition(".")[2]
            return [name, f"{module}.heads.0.{rest}", f"{module}.{rest}"]
        words = name.split(".")
        return [name, ".".join([*words[:2], "heads", "0", *words[2:]])]


def _head(name: str, fidelity: int) -> str:
    """Return the name that a fidelity's own table would have."""
    words = name.split(".")
    return name if words[0] != "outputs" else ".".join([*words[:2], "heads", str(fidelity), *words[2:]])
