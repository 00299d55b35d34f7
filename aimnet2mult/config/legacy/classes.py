"""The classes and functions of the original trainer that settings and model definitions name."""

import re

from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.sections import ADAPTIVE_LOSS
from aimnet2mult.errors import ConfigError

__all__ = ["ABSENT", "MODEL", "RULES", "translate_loss", "translate_module"]

MODEL = "aimnet2mult.models.aimnet2.AIMNet2"

ADAPTIVE = "aimnet2mult.train.loss.MTAdaWLoss"
MODULES = {"SRRep": "core.SRRep", "DispParam": "lr.DispParam"}
"""Path within ``aimnet.modules`` of the classes that the package does not export."""

ABSENT = {
    "aimnet2mult.models.mixed_fidelity_aimnet2.MixedFidelityAIMNet2": (
        f"name {MODEL}; the number of data sets decides how many fidelities a model has"
    ),
    "aimnet2mult.modules.CosineCutoff": "aimnet has no such class",
    "aimnet2mult.modules.ExpCutoff": "aimnet has no such class",
    "aimnet2mult.modules.DSequential": "aimnet has no such class",
    **dict.fromkeys(
        ("aimnet2mult.train.loss.dipole_loss_fn", "aimnet2mult.train.loss.quadrupole_loss_fn"),
        "add aimnet.modules.Dipole or Quadrupole to the outputs of the model, and use mse_loss_fn",
    ),
}
"""Classes and functions without an equivalent, and what to use instead."""

RULES = (
    Rule(
        MODEL,
        "translated",
        "`aimnet.models.AIMNet2` with `max_z: 128`, its default in the original, or a smaller `fidelity_offset`",
    ),
    Rule("aimnet2mult.modules.*", "translated", "`aimnet.modules.*`, the class of the same name"),
    Rule("`LRCoulomb` with `method: ewald`", "error", "structures are not periodic"),
    Rule("aimnet.train.loss.*", "translated", "`aimnet2mult.train.loss.*`, which ignore missing labels"),
    Rule(
        ADAPTIVE,
        "translated",
        f"`{ADAPTIVE_LOSS}`; neither validations nor batches without its labels change a scale "
        "([Loss weights](training-options.md#loss-weights))",
    ),
    *(Rule(path, "error", text) for path, text in ABSENT.items()),
)


def translate_loss(path: str, key: str) -> str:
    """Return the path of a loss: aimnet's count missing labels, and the original's ignore them, as the current ones do.

    Args:
        path: Dotted path of a class or function.
        key: Setting that contains it, for error messages.

    Raises:
        ConfigError: There is no equivalent.
    """
    _reject_absent(path, key)
    if path == ADAPTIVE:
        return ADAPTIVE_LOSS
    return re.sub(r"^aimnet\.train\.loss\.", "aimnet2mult.train.loss.", path)


def translate_module(path: str) -> str:
    """Return the path of a class in a model definition, with the original's copies of aimnet's classes replaced.

    Raises:
        ConfigError: There is no equivalent.
    """
    _reject_absent(path, "class")
    if path == MODEL:
        return "aimnet.models.AIMNet2"
    name = path.removeprefix("aimnet2mult.modules.")
    return path if name == path else f"aimnet.modules.{MODULES.get(name, name)}"


def _reject_absent(path: str, key: str) -> None:
    if path in ABSENT:
        raise ConfigError(f"{key} is {path!r}, a part of the original trainer that does not exist here; {ABSENT[path]}")
