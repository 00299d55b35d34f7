"""Names of weights of the original format."""

import pytest

from aimnet2mult.config.legacy.weights import translate_weights

ORIGINAL = {
    "afv.weight": 1,
    "fidelity_readouts.1.energy_mlp.mlp.0.weight": 2,
    "fidelity_readouts.1.atomic_shift.shifts.weight": 3,
    "fidelity_readouts.0.lrcoulomb.rc": 4,
    "shared_readouts.dipole.key": 5,
    "shared_readout.energy_mlp.mlp.0.weight": 6,
    "outputs.atomic_shift.shifts.weight": 7,
}
CURRENT = {
    "afv.weight": 1,
    "outputs.energy_mlp.heads.1.mlp.0.weight": 2,
    "outputs.atomic_shift.heads.1.shifts.weight": 3,
    "outputs.lrcoulomb.rc": 4,
    "outputs.dipole.key": 5,
}


@pytest.mark.parametrize("content", [ORIGINAL, {"model": ORIGINAL, "epoch": 3}], ids=["state dict", "with the epoch"])
def test_readouts_become_heads_and_untrained_copies_are_dropped(content: dict[str, object]) -> None:
    assert translate_weights(content) == CURRENT


@pytest.mark.parametrize("content", [CURRENT, [1, 2], None, {}])
def test_anything_else_is_unchanged(content: object) -> None:
    assert translate_weights(content) == content
