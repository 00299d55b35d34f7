"""Translation of the W&B settings."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator
from aimnet2mult.errors import ConfigError

__all__ = ["WandbTranslator"]

SAME_NAME = ("project", "entity", "name", "notes", "group", "tags")
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
"""Modes of ``wandb.init`` and of the sink."""


class WandbTranslator(SectionTranslator):
    """Translate ``wandb.init`` into options of the W&B sink, and select that sink."""

    rules = (
        Rule("wandb", "translated", "`telemetry.sinks: [wandb]`; null: no W&B, and curves go to TensorBoard"),
        Rule(f"wandb.init.{{{','.join(SAME_NAME)}}}", "translated", "`telemetry.wandb.*` with the same name"),
        Rule("wandb.init.mode", "translated", "`telemetry.wandb.mode`; `disabled` becomes `telemetry.sinks: none`"),
        Rule("wandb.init.*", "notice", "other options of `wandb.init` have no effect"),
    )

    def __init__(self, notes: dict[str, str]) -> None:
        super().__init__(notes)
        self._sinks: list[str] | str | None = None

    def translate(self, layer: Tree) -> None:
        """Translate ``wandb.init``; ``wandb: null`` deselects the sink again."""
        if nested.get(layer, "wandb") is None:
            self._sinks = None
        for name in SAME_NAME:
            if (value := nested.pop(layer, f"wandb.init.{name}")) not in (MISSING, None):
                nested.put(layer, f"telemetry.wandb.{name}", value)
                self._sinks = self._sinks or ["wandb"]
        self._translate_mode(layer)
        for name, value in list((nested.get(layer, "wandb.init", {}) or {}).items()):
            nested.pop(layer, f"wandb.init.{name}")
            if value is not None:
                self.notes[f"wandb.init.{name}"] = "not an option of the W&B sink; `telemetry sinks` lists them"

    def finish(self, merged: Tree) -> None:
        """Select the sink unless the settings name sinks."""
        if self._sinks and not nested.has(merged, "telemetry.sinks"):
            nested.put(merged, "telemetry.sinks", self._sinks)

    def _translate_mode(self, layer: Tree) -> None:
        mode = nested.pop(layer, "wandb.init.mode")
        if mode in (MISSING, None):
            return
        if isinstance(mode, str) and mode in MODES:
            nested.put(layer, "telemetry.wandb.mode", MODES[mode])
            self._sinks = ["wandb"]
        elif mode == "disabled":
            self._sinks = "none"
        else:
            raise ConfigError(f"wandb.init.mode is {mode!r}: expected online, offline or disabled")
