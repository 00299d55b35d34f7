"""Translation of the data sets: indices, model inputs, validation sets."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator
from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import INPUTS

__all__ = ["DataTranslator"]

# Mappings by fidelity index, below `data`.
BY_INDEX = ("fidelity_datasets", "val_fidelity_datasets", "fidelity_weights", "sae.energy.files")


class DataTranslator(SectionTranslator):
    """Translate ``data`` except for its samplers."""

    rules = (
        Rule(
            "data.val_fidelity_datasets",
            "notice",
            "same key, which the original ignored; remove it for the behavior of the original",
        ),
        Rule("data.separate_val", "translated", "false: all data sets are used for both training and validation"),
        Rule(
            "data.x",
            "notice",
            f"the inputs are always {', '.join(INPUTS)}, as far as a data set has them; others are an error",
        ),
        Rule("labels in `data.y` that no data set has", "notice", "left out ([Labels](labels.md))"),
        Rule("data.sae.energy.file", "error", "name a file for each fidelity: `data.sae.energy.files.0` …"),
        Rule("data.loaders.*.pin_memory", "translated", "true is the default on CUDA"),
    )

    def __init__(self, notes: dict[str, str]) -> None:
        super().__init__(notes)
        self._separate_validation = True

    def translate(self, layer: Tree) -> None:
        """Translate indices, ``data.x``, ``data.separate_val`` and ``pin_memory``."""
        for section in BY_INDEX:
            _convert_indices(layer, f"data.{section}")
        self._check_inputs(nested.pop(layer, "data.x"))
        if (separate := nested.pop(layer, "data.separate_val")) is not MISSING:
            self._separate_validation = separate is not False
        for part in ("train", "val"):
            # True is the default on a GPU; without one, torch would warn.
            if nested.get(layer, f"data.loaders.{part}.pin_memory") is True:
                nested.pop(layer, f"data.loaders.{part}.pin_memory")

    def finish(self, merged: Tree) -> None:
        """Validate on the training sets if the original did; note validation sets that it ignored."""
        data = merged["data"]
        if not self._separate_validation:
            data["val_fidelity_datasets"] = data["fidelity_datasets"]
        elif data["val_fidelity_datasets"]:
            self.notes["data.val_fidelity_datasets"] = (
                "takes effect here, unlike in the original trainer; remove it for the original behavior"
            )

    def _check_inputs(self, inputs: object) -> None:
        if not isinstance(inputs, list):
            return
        if unknown := set(map(str, inputs)) - {*INPUTS}:
            raise ConfigError(
                f"data.x contains {', '.join(sorted(unknown))}; the inputs of a model are {', '.join(INPUTS)}"
            )
        if missing := [name for name in INPUTS if name not in inputs]:
            self.notes["data.x"] = f"{', '.join(missing)} will also be used if the data sets contain it"


def _convert_indices(layer: Tree, key: str) -> None:
    """Convert the keys of a mapping to integers, and remove placeholders."""
    given = nested.get(layer, key)
    if given is None:
        nested.pop(layer, key)
    elif isinstance(given, dict):
        pairs = ((int(index) if str(index).isdecimal() else index, value) for index, value in given.items())
        nested.put(layer, key, {index: value for index, value in pairs if value != "???"})
