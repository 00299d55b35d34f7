"""The global random generators: their seeds, and their state as part of a checkpoint."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "seed_generators", "seed_rank", "set_random_state"]


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch; the first two are for libraries that use them."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator
    torch.manual_seed(seed)


def seed_rank(seed: int, rank: int, iteration: int) -> None:
    """Seed torch for a rank from an iteration on; otherwise dropout masks would be identical on all ranks."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, iteration]).generate_state(1)[0]))


def random_state() -> dict[str, Any]:
    """Return the state of all global random generators: Python, NumPy, torch and CUDA."""
    python_version, python_state, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "python": (python_version, list(python_state), gauss),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set all global random generators to a state from `random_state`.

    Raises:
        Exception: Any, if it is something else.
    """
    python_version, python_state, gauss = state["python"]
    random.setstate((python_version, tuple(python_state), gauss))
    name, keys, *rest = state["numpy"]
    # NumPy does not check the position, and would read beyond its array.
    if not 0 <= rest[0] <= keys.numel():
        raise ValueError(f"the position in NumPy's random numbers is {rest[0]}")
    np.random.set_state((name, keys.cpu().numpy().astype("uint32"), *rest))  # noqa: NPY002 - the global generator
    torch.set_rng_state(state["torch"].cpu())
    # The number of GPUs may differ from that at the time of the checkpoint.
    for device, one in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(one.cpu(), device)
