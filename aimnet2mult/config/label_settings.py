"""Labels in the settings: those declared by the user, their components of the loss, and labels that no data set has."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from aimnet2mult.config.sections import OWN_LOSS, DeclaredLabel, LabelLoss
from aimnet2mult.quantities import INPUTS, LABELS, MASK_SUFFIX, Label

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config

__all__ = ["check_declarations", "drop_labels", "with_default_components"]

RESERVED_NAMES = (*INPUTS, "fidelity", "origin", "frame", "loss")
"""Keys of a batch, of a data set or of the losses that are no labels."""
RESERVED_ABBREVIATIONS = ("loss", "lr", "grad", "it", "epoch", "skipped")
"""First words of the names of other metrics."""
LOSS_FUNCTIONS = {True: "aimnet2mult.train.loss.peratom_loss_fn", False: "aimnet2mult.train.loss.mse_loss_fn"}
"""Default function of the loss of a label, by whether it is per atom."""
DEFAULT_COMPONENTS = ("energy", "forces", "charges", "spin_charges")
"""Labels for which the defaults of the settings have a component of the loss."""


def check_declarations(config: Config) -> Iterator[str]:
    """Yield a message for each problem of the names and texts of the declared labels."""
    taken = {label.abbr: label.name for label in LABELS.values()}
    for name, declared in config.declared_labels.items():
        key = f"labels.{name}"
        yield from _check_name(key, name)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", declared.abbr):
            yield f"{key}.abbr is {declared.abbr!r}: expected a letter followed by letters and digits, such as V"
        elif declared.abbr in RESERVED_ABBREVIATIONS:
            yield f"{key}.abbr is {declared.abbr!r}, with which the names of other metrics begin; choose another one"
        elif declared.abbr in taken:
            yield f"{key}.abbr is {declared.abbr!r}, which is the abbreviation of {taken[declared.abbr]}"
        taken.setdefault(declared.abbr, name)
        if declared.text is not None and not declared.text.isprintable():
            yield f"{key}.text is {declared.text!r}: expected printable characters"
        if name not in config.data.y:
            names = ",".join([*config.data.y, name])
            yield f"{key} is declared, but not trained; add it to data.y, as in data.y=[{names}]"


def _check_name(key: str, name: str) -> Iterator[str]:
    if name in LABELS:
        yield f"{key} is a built-in label, which cannot be declared; choose another name"
    elif name in RESERVED_NAMES:
        yield f"{key}: {name!r} is the name of something else in a batch; choose another name"
    elif not re.fullmatch(r"[A-Za-z]\w{0,49}", name, re.ASCII) or name.endswith(MASK_SUFFIX):
        yield (
            f"labels: {name!r:.60} is not the name of a label: expected a letter followed by up to 49 letters, digits "
            f"and _, not ending in {MASK_SUFFIX}"
        )


def with_default_components(config: Config) -> Config:
    """Return the settings with a component of the loss for each trained label that the defaults have none for."""
    components = config.loss.kwargs.get("components")
    if config.loss.cls != OWN_LOSS or not isinstance(components, Mapping):
        return config
    added = {
        label.name: _component(label, config.declared_labels.get(label.name))
        for label in config.labels
        if label.name not in DEFAULT_COMPONENTS and label.name not in _labels_of(components)
    }
    return _with_components(config, {**components, **added}) if added else config


def _component(label: Label, declared: DeclaredLabel | None) -> dict[str, Any]:
    loss = LabelLoss() if declared is None else declared.loss
    function = loss.fn or LOSS_FUNCTIONS[label.per_atom]
    return {"fn": function, "weight": loss.weight, "kwargs": {"key_true": label.name, "key_pred": label.name}}


def drop_labels(config: Config, names: Collection[str]) -> Config:
    """Return the settings without some labels, their declarations, units and components of the loss."""
    kept = [name for name in config.data.y if name not in names]
    components = config.loss.kwargs.get("components")
    if isinstance(components, Mapping):
        labels = _labels_of(components)
        # None, because the defaults are merged below what is recorded of a run.
        dropped = {component: None for label, component in labels.items() if label in names}
        config = _with_components(config, {**components, **dropped})
    units = {name: unit for name, unit in config.telemetry["units"].items() if name not in names}
    return msgspec.structs.replace(
        config,
        data=msgspec.structs.replace(config.data, y=kept),
        declared_labels={name: label for name, label in config.declared_labels.items() if name not in names},
        telemetry={**config.telemetry, "units": units},
    )


def _with_components(config: Config, components: Mapping[str, Any]) -> Config:
    loss = msgspec.structs.replace(config.loss, kwargs={**config.loss.kwargs, "components": dict(components)})
    return msgspec.structs.replace(config, loss=loss)


def _labels_of(components: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of the component of each label; a component without ``key_true`` is named after its label."""
    named = {}
    for name, component in components.items():
        kwargs = component.get("kwargs") if isinstance(component, Mapping) else None
        label = kwargs.get("key_true", name) if isinstance(kwargs, Mapping) else name
        named[str(label)] = name
    return named
