"""Small saved models with weights and reference energies that differ between all fidelities and elements."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from aimnet2mult.models.description import Description
from aimnet2mult.models.saved_model import SavedModel
from aimnet2mult.models.weights import save_weights
from support import small_models
from support.labels import built_in

TINY_DESCRIPTION = Description(
    definition={"class": "support.tiny_model.TinyCore"},
    labels=built_in("energy", "charges"),
    fidelity_names=("tiny",),
    fidelity_offset=100,
    use_fidelity_readouts=False,
    reference_energies=({1: -13.0, 6: -1030.0, 8: -2040.0},),
    elements=(frozenset({1, 6, 8}),),
)
COULOMB = {"class": "aimnet.modules.LRCoulomb", "kwargs": {"rc": 4.6, "key_in": "charges", "key_out": "energy"}}
NAMES = ("gfn1", "wb97m")


def describe(*, n_fidelities: int = 2, readouts: bool = True, **outputs: Any) -> Description:
    """Return the description of a small AIMNet2 for H, C, N and O, and in the last fidelity also Cl."""
    rng = np.random.default_rng(7)
    elements = [frozenset({1, 6, 7, 8}) for _ in range(n_fidelities)]
    elements[-1] |= {17}
    return Description(
        definition=small_models.definition(**{"lrcoulomb": COULOMB, **outputs}),
        labels=built_in("energy", "forces", "charges", "spin_charges"),
        fidelity_names=NAMES[:n_fidelities],
        fidelity_offset=100,
        use_fidelity_readouts=readouts,
        reference_energies=tuple({z: -40.0 * z**2 + float(rng.normal()) for z in sorted(zs)} for zs in elements),
        elements=tuple(elements),
    )


def randomize(model: Any) -> Any:
    """Add noise to all weights of a model, so that no two of them are equal."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".aev." not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name.endswith(("afv.weight", ".shifts.weight")):
                # The row of the padding is never trained.
                parameter[0] = 0
    return model.eval()


def build_random(description: Description) -> Any:
    """Build the model of a description with random weights."""
    model = small_models.build(
        definition=dict(description.definition),
        labels=description.labels,
        n_fidelities=len(description.fidelity_names),
        fidelity_offset=description.fidelity_offset,
        use_fidelity_readouts=description.use_fidelity_readouts,
    )
    return randomize(model)


def write_weights(path: Path, description: Description) -> Any:
    """Write a weight file with random weights, and return the model."""
    model = build_random(description)
    save_weights(model, description, path)
    return model


def as_saved(description: Description, model: Any) -> SavedModel:
    """Return a model as if it had been read from a file."""
    state = getattr(model, "module", model).state_dict()
    return SavedModel(**vars(description), state=state, source=Path("w.pt"))
