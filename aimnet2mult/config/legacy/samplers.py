"""Translation of the samplers and the fidelity weights."""

from typing import Any

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator
from aimnet2mult.errors import ConfigError

__all__ = ["SamplerTranslator"]

# Keys with a fixed value: the value, and the note logged for any other value.
FIXED = {
    "data.ddp_load_full_dataset": (True, "every rank loads all data and processes its share of each batch"),
    "data.samplers.val.kwargs.sampling_strategy": ("uniform", "a validation uses each structure once"),
    "data.samplers.val.kwargs.batches_per_epoch": (-1, "a validation uses all its structures"),
}
# Keys with a single supported value: the value, and the reason.
SUPPORTED = {
    "data.samplers.train.kwargs.shuffle": (True, "training data are always shuffled; remove the key"),
    "data.sae.energy.mode": ("linreg", "only linreg is supported, the linear fit of reference energies"),
}
STRATEGY = "data.samplers.train.kwargs.sampling_strategy"
COPIES_PER_WEIGHT = 10
"""The original copied each structure this many times per unit of weight, rounded down, and at least once."""

WEIGHTS = "weights are rounded down to tenths, as early versions of the original did; they had no effect in later ones"
MAX_WEIGHT = 1e9
"""Maximum weight that is converted to copies."""


class SamplerTranslator(SectionTranslator):
    """Translate ``data.samplers`` and ``data.fidelity_weights``; batch sizes are plain renames."""

    rules = (
        Rule(STRATEGY, "translated", "`weighted`: `data.weights_of: structure` (see below); `uniform`: no weights"),
        Rule("data.fidelity_weights", "notice", f"same key; {WEIGHTS}"),
        *(Rule(key, "error", f"other than {value}: {text}") for key, (value, text) in SUPPORTED.items()),
        *(Rule(key, "notice", f"other than {value}: {text}") for key, (value, text) in FIXED.items()),
        Rule("data.samplers.val.kwargs.shuffle", "translated", "no effect on a validation"),
    )

    def __init__(self, notes: dict[str, str]) -> None:
        super().__init__(notes)
        self._strategy = "weighted"

    def translate(self, layer: Tree) -> None:
        """Check the sampler settings that have no current equivalent, and read the sampling strategy."""
        for key, (supported, reason) in SUPPORTED.items():
            if (value := nested.pop(layer, key)) not in (MISSING, None, supported):
                raise ConfigError(f"{key} is {value!r}: {reason}")
        for key, (fixed, note) in FIXED.items():
            if nested.pop(layer, key) not in (MISSING, None, fixed):
                self.notes[key] = note
        nested.pop(layer, "data.samplers.val.kwargs.shuffle")
        if (strategy := nested.pop(layer, STRATEGY)) not in (MISSING, None):
            if strategy not in ("weighted", "uniform"):
                raise ConfigError(f"{STRATEGY} is {strategy!r}: expected weighted or uniform")
            self._strategy = strategy

    def finish(self, merged: Tree) -> None:
        """Replace the weights with the effective sampling weights of the original trainer."""
        data = merged["data"]
        weights, fidelities = data["fidelity_weights"], data["fidelity_datasets"]
        if data["weights_of"] != "structure" or not isinstance(weights, dict) or not isinstance(fidelities, dict):
            return
        if not all(_is_weight(weight) for weight in weights.values()):
            return  # reported when the merged settings are validated
        effective = {index: _effective_weight(weight) for index, weight in weights.items() if index in fidelities}
        equal = len({effective.get(index, 1.0) for index in fidelities}) <= 1
        if self._strategy == "uniform" and not equal:
            self.notes["data.fidelity_weights"] = "no effect, because sampling_strategy is uniform; weighted uses them"
        elif not equal:
            used = ", ".join(f"{index}: {weight:g}" for index, weight in effective.items())
            self.notes["data.fidelity_weights"] = f"{{{used}}}; {WEIGHTS}"
        data["fidelity_weights"] = {} if equal or self._strategy == "uniform" else effective


def _effective_weight(weight: float) -> float:
    return max(1, int(weight * COPIES_PER_WEIGHT)) / COPIES_PER_WEIGHT


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_WEIGHT
