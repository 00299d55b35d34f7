"""Building of models from their definitions."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import PickleError
from typing import Any, cast

import torch
from torch import Tensor, nn

from aimnet2mult.models.deferred_kernels import import_aimnet
from aimnet2mult.models.quiet_warp import init_warp

# Importing aimnet would initialize it with messages.
init_warp()
import_aimnet()

from aimnet.config import ImportRole, build_module  # noqa: E402
from aimnet.modules import Forces  # noqa: E402

from aimnet2mult.config.import_path import load_object  # noqa: E402
from aimnet2mult.config.trust import named_in  # noqa: E402
from aimnet2mult.errors import ConfigError, ModelError  # noqa: E402
from aimnet2mult.models.definition import ROWS, table_rows  # noqa: E402
from aimnet2mult.models.element_tables import enlarge_tables  # noqa: E402
from aimnet2mult.models.mixed_fidelity import MixedFidelity  # noqa: E402
from aimnet2mult.models.shifted_coulomb import make_differentiable  # noqa: E402
from aimnet2mult.models.torch_file import load_file  # noqa: E402
from aimnet2mult.quantities import Label  # noqa: E402
from telemetry.errors import format_error  # noqa: E402

__all__ = ["build_model", "unwrap"]

PARAMETER_FILE = "ptfile"
"""Argument that names a file of parameters."""

_FAILURES = (
    *(TypeError, ValueError, LookupError, RuntimeError, ImportError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, OSError, PickleError),
)
"""Errors of a model whose definition is wrong; those of files are about parameters that the definition names."""


def build_model(
    definition: Mapping[str, Any],
    *,
    labels: Sequence[Label],
    n_fidelities: int = 1,
    fidelity_offset: int = 100,
    use_fidelity_readouts: bool = False,
) -> nn.Module:
    """Build a model, initialized from torch's global generator.

    With several fidelities, the model is turned into a ``MixedFidelity``. If ``forces`` are among the labels, the model
    is wrapped in aimnet's ``Forces``. It maps a dictionary of inputs to the same dictionary with predictions added.

    Args:
        definition: Nested ``class`` and ``kwargs``, as accepted by ``aimnet.config.build_module``.
        labels: Labels that the model must predict.
        n_fidelities: Number of fidelities.
        fidelity_offset: Shift of the atomic numbers per fidelity.
        use_fidelity_readouts: Whether each fidelity has its own output heads.

    Raises:
        ModelError: The definition cannot be built, does not support several fidelities, or builds a model that does not
            predict one of ``labels`` in its shape.
    """
    if "class" not in definition:
        raise ModelError("the definition has no key 'class'; expected for example `class: aimnet.models.AIMNet2`")
    _check_classes(definition)
    _check_parameter_files(definition)
    models = [_build(definition) for _ in range(n_fidelities if use_fidelity_readouts else 1)]
    model = models[0]
    if n_fidelities > 1:
        model = MixedFidelity(models, n_fidelities=n_fidelities, offset=fidelity_offset)
    if any(label.name == "forces" for label in labels):
        model = Forces(model)
    _check_labels(model, labels)
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper that computes forces."""
    return model.module if isinstance(model, Forces) else model


def _check_classes(definition: Mapping[str, Any]) -> None:
    """Import all classes before building any, so that the error names the key of each that cannot be used."""
    problems = []
    for key, path in named_in(definition):
        try:
            _authorize(path, "initializer" if key.endswith("weight_init_fn") else "class", key)
        except ModelError as error:
            problems.append(str(error))
    if problems:
        raise ModelError("\n".join(problems))


def _check_parameter_files(node: object, key: str = "") -> None:
    """Check the files from which classes such as aimnet's DispParam load parameters without any check of their own.

    For a named pipe, for example, torch would wait for good.
    """
    if isinstance(node, list):
        for index, value in enumerate(node):
            _check_parameter_files(value, f"{key}[{index}]")
    if not isinstance(node, Mapping):
        return
    if "class" in node and isinstance(path := _parameter_file(node), str):
        try:
            load_file(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"{key or 'the model'}: cannot read the parameter file {path!r}: {reason}") from error
    for name, value in node.items():
        _check_parameter_files(value, f"{key}.{name}" if key else str(name))


def _parameter_file(node: Mapping[str, Any]) -> object:
    """Return the argument ``ptfile`` of a class, however it is given; None if there is none."""
    cls = load_object(node["class"], "class", "model")
    try:
        given = inspect.signature(cls).bind_partial(*node.get("args", []), **node.get("kwargs", {}))
    except TypeError:
        # Building the model reports the arguments that do not fit.
        return None
    return given.arguments.get(PARAMETER_FILE)


def _authorize(path: object, role: ImportRole, key: str = "the model") -> None:
    """Check that a class or function is trusted and of the kind that aimnet calls in this role."""
    try:
        found = load_object(path, key, "model")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    if role == "initializer":
        if isinstance(found, type) or not callable(found):
            raise ModelError(f"{key} is {path!r}, which is not a function")
    elif not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ModelError(f"{key} is {path!r}, which is not a torch.nn.Module class")


def _build(definition: Mapping[str, Any]) -> nn.Module:
    definition, rows = _split_rows(definition)
    try:
        # aimnet asks before it imports anything, also what only the classes themselves import.
        model = build_module(definition, allow_file_references=False, import_authorizer=_authorize)
        if rows is not None:
            enlarge_tables(model, rows)
        make_differentiable(model)
        return cast("nn.Module", model)
    except ModelError:
        raise
    except _FAILURES as error:
        raise ModelError(f"cannot build the model: {format_error(error)}") from error


def _split_rows(definition: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return a definition that aimnet understands, and the number of rows of the tables if it is given."""
    rows = table_rows(definition)
    if rows is None:
        return dict(definition), None
    rest = {name: value for name, value in definition["kwargs"].items() if name != ROWS}
    return {**definition, "kwargs": rest}, rows


def _check_labels(model: nn.Module, labels: Sequence[Label]) -> None:
    """Run the model on a small molecule, so that a missing label is reported before the data are read."""
    model.eval()
    try:
        with torch.no_grad():
            predicted = cast("dict[str, Tensor]", model(_hydrogen()))
    except _FAILURES as error:
        raise ModelError(f"the model fails to predict H2: {format_error(error)}") from error
    finally:
        model.train()
    missing = [label.name for label in labels if label.name not in predicted]
    if missing:
        hint = "; spin_charges require num_charge_channels: 2" if "spin_charges" in missing else ""
        remedy = "add them to the outputs in its definition, or remove them from data.y"
        raise ModelError(f"the model does not predict {', '.join(missing)}{hint}; {remedy}")
    for label in labels:
        shape, expected = tuple(predicted[label.name].shape), label.shape(1, 2)
        if shape != expected:
            raise ModelError(f"the model predicts {label.name} of H2 with shape {shape}, expected {expected}")


def _hydrogen() -> dict[str, Tensor]:
    return {
        "coord": torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]]),
        "numbers": torch.tensor([[1, 1]]),
        "charge": torch.zeros(1),
        "mult": torch.ones(1),
        "fidelity": torch.zeros(1, dtype=torch.int64),
    }
