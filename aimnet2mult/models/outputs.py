"""Output modules of a model, with the names by which aimnet recognizes those that its calculators replace."""

import inspect
from collections.abc import Mapping
from typing import Any

from aimnet.modules import D3TS, DFTD3, AtomicShift, LRCoulomb, SRCoulomb
from torch import Tensor

from aimnet2mult.config.import_path import load_object
from aimnet2mult.errors import ModelError

__all__ = ["rename_outputs"]

NAMES = {AtomicShift: "atomic_shift", LRCoulomb: "lrcoulomb", DFTD3: "dftd3", D3TS: "d3ts"}
RESERVED = {*NAMES.values(), "d3bj", "srcoulomb"}
REQUIRED: Mapping[type, Mapping[str, object]] = {
    LRCoulomb: {"key_in": "charges", "key_out": "energy", "subtract_sr": True},
    DFTD3: {"key_out": "energy"},
    AtomicShift: {"key_in": "energy", "key_out": "energy", "reduce_sum": False},
}
"""Arguments of modules that the calculators replace, or that contain the reference energies."""

Definition = dict[str, Any]


def rename_outputs(definition: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[Definition, dict[str, Tensor]]:
    """Return a definition and weights in which each of `NAMES` has that name, and all arguments of it are explicit.

    aimnet goes by the names: it would leave a Coulomb module of another name in the model, and its calculators would
    not supply the neighbors that such a module needs.

    Raises:
        ModelError: A module has a name of another one, occurs twice, or has arguments that aimnet's calculators do not
            support.
    """
    kwargs = definition.get("kwargs") or {}
    outputs = kwargs.get("outputs")
    if isinstance(outputs, list):
        outputs = {str(index): node for index, node in enumerate(outputs)}
    if not isinstance(outputs, dict) or definition.get("args"):
        raise ModelError("export requires a definition with `kwargs: {outputs: …}`")
    nodes: dict[str, Any] = {}
    renamed = {}
    for name, node in outputs.items():
        new, nodes_new = _convert(name, node)
        if new in nodes:
            raise ModelError(f"kwargs.outputs has several {nodes_new['class']}; aimnet's format has one")
        nodes[new], renamed[f"outputs.{name}."] = nodes_new, f"outputs.{new}."
    return {**definition, "kwargs": {**kwargs, "outputs": nodes}}, {
        _rename(name, renamed): value for name, value in state.items()
    }


def _convert(name: str, node: Any) -> tuple[str, Any]:
    """Return the name and the definition of an output module in aimnet's format."""
    cls = load_object(node["class"], f"kwargs.outputs.{name}.class", "model")
    known = NAMES.get(cls)
    if known is None:
        if name in RESERVED or issubclass(cls, (LRCoulomb, DFTD3, SRCoulomb)):
            raise ModelError(f"kwargs.outputs.{name} is a {node['class']}, which aimnet's calculators would replace")
        return name, node
    bound = inspect.signature(cls).bind(*node.get("args", []), **node.get("kwargs", {}))
    bound.apply_defaults()
    arguments: dict[str, Any] = dict(bound.arguments)
    for key, value in REQUIRED.get(cls, {}).items():
        if arguments[key] != value:
            raise ModelError(
                f"kwargs.outputs.{name}.kwargs.{key} is {arguments[key]!r}; aimnet's calculators support only {value!r}"
            )
    arguments.pop("dtype", None)
    return known, {"class": node["class"], "kwargs": arguments}


def _rename(name: str, renamed: Mapping[str, str]) -> str:
    old = ".".join(name.split(".")[:2]) + "."
    return renamed[old] + name.removeprefix(old) if old in renamed else name
