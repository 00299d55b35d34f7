"""Translation of the names in a file of weights."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["translate_weights"]


def translate_weights(content: Any) -> Any:
    """Return the state dict in a file of weights, with the current names.

    ``content`` is a state dict or a mapping with one as ``model``; anything else is returned unchanged. The original
    keeps its heads in ``fidelity_readouts``, each with a complete table of atomic shifts, of which it uses only the
    rows of that fidelity. The current name of such a table is ``outputs.<name>.heads.<fidelity>.shifts.weight``.
    """
    state = content["model"] if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping) else content
    if not isinstance(state, Mapping) or not any(str(name).startswith("fidelity_readouts.") for name in state):
        return state
    return dict(_rename(state))


def _rename(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if match := re.fullmatch(r"fidelity_readouts\.(\d+)\.(\w+)\.(.+)", name):
            fidelity, module, rest = match.groups()
            per_fidelity = rest.startswith(("mlp.", "shifts."))
            yield f"outputs.{module}.heads.{fidelity}.{rest}" if per_fidelity else f"outputs.{module}.{rest}", value
        elif name.startswith("shared_readouts."):
            yield name.replace("shared_readouts.", "outputs."), value
        elif not name.startswith(("shared_readout.", "outputs.")):
            # The excluded names are copies that were never trained.
            yield name, value
