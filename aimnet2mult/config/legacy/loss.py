"""Translation of the loss."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.classes import translate_loss
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator

__all__ = ["LossTranslator"]

REGULARIZATION = "kwargs.missing_label_regularization"
NO_REGULARIZATION = (
    "unlabeled structures have no effect on a loss; the original's penalty applied only to batches in which no"
    " structure had the label"
)


class LossTranslator(SectionTranslator):
    """Translate the classes and functions of ``loss``."""

    rules = (Rule(f"loss.kwargs.components.*.{REGULARIZATION}", "notice", NO_REGULARIZATION),)

    def translate(self, layer: Tree) -> None:
        """Replace aimnet's losses, which do not ignore missing labels; the original trainer's have the same paths."""
        loss = layer.get("loss")
        if not isinstance(loss, dict):
            return
        components = nested.get(layer, "loss.kwargs.components", {})
        parts = {f"loss.kwargs.components.{name}": part for name, part in (components or {}).items()}
        sections = [("loss.class", loss, "class"), *((f"{where}.fn", part, "fn") for where, part in parts.items())]
        for where, section, key in sections:
            if isinstance(section, dict) and isinstance(path := section.get(key), str):
                section[key] = translate_loss(path, where)
        for where, part in parts.items():
            if nested.pop(part, REGULARIZATION) not in (MISSING, None, 0):
                self.notes[f"{where}.{REGULARIZATION}"] = NO_REGULARIZATION
