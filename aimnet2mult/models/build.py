"""Building of models from their definitions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from aimnet2mult.models.quiet_warp import init_warp

# Importing aimnet would initialize it with messages.
init_warp()

from aimnet.config import build_module, get_module  # noqa: E402
from aimnet.modules import Forces  # noqa: E402

from aimnet2mult.errors import ModelError  # noqa: E402
from aimnet2mult.models.mixed_fidelity import MixedFidelity  # noqa: E402
from aimnet2mult.quantities import LABELS  # noqa: E402
from telemetry.errors import format_error  # noqa: E402

__all__ = ["build_model", "unwrap"]


def build_model(
    definition: Mapping[str, Any],
    *,
    labels: Sequence[str],
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
    models = [_build(definition) for _ in range(n_fidelities if use_fidelity_readouts else 1)]
    model = models[0]
    if n_fidelities > 1:
        model = MixedFidelity(models, n_fidelities=n_fidelities, offset=fidelity_offset)
    if "forces" in labels:
        model = Forces(model)
    _check_labels(model, labels)
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper that computes forces."""
    return model.module if isinstance(model, Forces) else model


def _check_classes(definition: Mapping[str, Any]) -> None:
    """Resolve all classes before building any, so that the error names the class that does not exist."""
    for path in _classes(definition):
        try:
            get_module(path)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ModelError(f"no class {path!r}: {error}") from error


def _classes(node: object) -> Iterator[object]:
    if isinstance(node, Mapping):
        if "class" in node:
            yield node["class"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _classes(child)


def _build(definition: Mapping[str, Any]) -> nn.Module:
    try:
        model = build_module(dict(definition))
    except (TypeError, ValueError, LookupError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(f"cannot build the model: {format_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"the definition builds a {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_labels(model: nn.Module, labels: Sequence[str]) -> None:
    """Run the model on a small molecule, so that a missing label is reported before the data are read."""
    model.eval()
    try:
        with torch.no_grad():
            predicted = cast("dict[str, Tensor]", model(_hydrogen()))
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the model fails to predict H2: {format_error(error)}") from error
    finally:
        model.train()
    missing = [label for label in labels if label not in predicted]
    if missing:
        hint = "; spin_charges require num_charge_channels: 2" if "spin_charges" in missing else ""
        raise ModelError(
            f"the model does not predict {', '.join(missing)}{hint}; change the model or remove the label from data.y"
        )
    for label in labels:
        shape, expected = tuple(predicted[label].shape), LABELS[label].shape(1, 2)
        if shape != expected:
            raise ModelError(f"the model predicts {label} of H2 with shape {shape}, expected {expected}")


def _hydrogen() -> dict[str, Tensor]:
    return {
        "coord": torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]]),
        "numbers": torch.tensor([[1, 1]]),
        "charge": torch.zeros(1),
        "mult": torch.ones(1),
        "fidelity": torch.zeros(1, dtype=torch.int64),
    }
