"""From a definition, as YAML holds it, to a model that predicts the labels that are learnt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import warp
from torch import Tensor, nn

# aimnet starts warp as it is imported, and warp then prints a page about the machine.
warp.config.log_level = warp.LOG_WARNING

from aimnet.config import build_module, get_module  # noqa: E402
from aimnet.modules import Forces  # noqa: E402

from aimnet2mult.errors import ModelError  # noqa: E402
from aimnet2mult.labels import LABELS  # noqa: E402
from aimnet2mult.models.mixed_fidelity import MixedFidelity  # noqa: E402
from telemetry.errors import format_error  # noqa: E402

__all__ = ["build_model"]


def build_model(
    definition: Mapping[str, Any],
    *,
    labels: Sequence[str],
    n_fidelities: int = 1,
    fidelity_offset: int = 100,
    use_fidelity_readouts: bool = False,
) -> nn.Module:
    """Build the model that a definition describes, with initial values from torch's global generator.

    ``definition`` is what ``aimnet.config.build_module`` takes: ``class`` and ``kwargs``, nested. One
    fidelity gives the plain model, several a ``MixedFidelity`` of it. Where ``forces`` are among the
    labels, an aimnet ``Forces`` is around it.

    The model takes a dictionary of a batch's inputs and returns it with the predictions added.

    Raises ``ModelError`` if the definition cannot be built, if it does not go with several
    fidelities, or if the model does not predict one of ``labels``, in the shape that it has.
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


def _check_classes(definition: Mapping[str, Any]) -> None:
    """Resolve every class before any is built, so that the error names the one that is not there."""
    for path in _classes(definition):
        try:
            get_module(path)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ModelError(f"there is no class {path!r}: {error}") from error


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
        raise ModelError(f"the model cannot be built: {format_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"the definition builds a {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_labels(model: nn.Module, labels: Sequence[str]) -> None:
    """Run a small molecule through the model, so that a missing label is not found by the first batch."""
    model.eval()
    try:
        with torch.no_grad():
            predicted = cast("dict[str, Tensor]", model(_hydrogen()))
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the model fails for H2: {format_error(error)}") from error
    finally:
        model.train()
    missing = [label for label in labels if label not in predicted]
    if missing:
        cure = "; spin_charges need num_charge_channels: 2" if "spin_charges" in missing else ""
        raise ModelError(f"the model predicts no {', '.join(missing)}{cure}; take it out of data.y or add it")
    for label in labels:
        shape, expected = tuple(predicted[label].shape), LABELS[label].shape(1, 2)
        if shape != expected:
            raise ModelError(f"the model's {label} of H2 has the shape {shape}, expected {expected}")


def _hydrogen() -> dict[str, Tensor]:
    return {
        "coord": torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]]),
        "numbers": torch.tensor([[1, 1]]),
        "charge": torch.zeros(1),
        "mult": torch.ones(1),
        "fidelity": torch.zeros(1, dtype=torch.int64),
    }
