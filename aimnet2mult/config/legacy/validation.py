"""Translation of the validation frequency."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator
from aimnet2mult.errors import ConfigError

__all__ = ["ValidationTranslator"]


class ValidationTranslator(SectionTranslator):
    """Translate the three ways to set the validation frequency into ``log_frequency.val``, in iterations.

    In order of precedence within a layer: ``log_frequency.val``, ``val_frequency``, ``wandb.log_frequency.val``.
    """

    rules = (
        Rule("val_frequency.{mode,every}", "translated", "`log_frequency.val`, in iterations"),
        Rule("wandb.log_frequency.val", "translated", "`log_frequency.val`"),
    )

    def __init__(self, notes: dict[str, str]) -> None:
        super().__init__(notes)
        self._frequency: Tree = {"mode": None, "every": None}

    def translate(self, layer: Tree) -> None:
        """Translate frequencies in iterations; ``finish`` translates frequencies in epochs."""
        for key in ("log_frequency", "val_frequency"):
            if nested.get(layer, key) is None:
                nested.pop(layer, key)
        iterations = nested.pop(layer, "wandb.log_frequency.val")
        given = {name: nested.pop(layer, f"val_frequency.{name}") for name in ("mode", "every")}
        if given := {name: value for name, value in given.items() if value is not MISSING}:
            self._frequency |= given
            iterations = self._iterations()
        if iterations is not MISSING and nested.get(layer, "log_frequency.val") in (MISSING, None):
            nested.put(layer, "log_frequency.val", iterations)

    def finish(self, merged: Tree) -> None:
        """Convert a frequency in epochs to iterations, now that the length of an epoch is known."""
        every = self._frequency["every"]
        if self._frequency["mode"] != "epochs" or every in (None, 1) or merged["log_frequency"]["val"] is not None:
            return
        batches = merged["data"]["samplers"]["train"]["batches_per_epoch"]
        if not isinstance(batches, int) or not isinstance(every, int):
            raise ConfigError(
                f"val_frequency.every is {every!r} epochs, but the length of an epoch is unknown until the data are"
                " loaded; set log_frequency.val, in iterations"
            )
        merged["log_frequency"]["val"] = every * batches

    def _iterations(self) -> object:
        mode, every = self._frequency["mode"], self._frequency["every"]
        if mode != "iterations":
            return None
        if every is None:
            raise ConfigError("val_frequency has no key 'every'; add it or set log_frequency.val, both in iterations")
        return every
