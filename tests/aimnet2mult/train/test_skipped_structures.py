"""Structures that a validation skips are named once, and up to ten at a time."""

from pathlib import Path

import numpy as np
import torch

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.train.skipped_structures import SkippedStructures
from support.tiny_runs import build_tiny

VALIDATED = 12


def test_up_to_ten_structures_are_named_and_the_others_counted(tmp_path: Path) -> None:
    _, components = build_tiny(tmp_path, "data.val_fraction=0.75")
    (group,) = components.data.val.groups
    places = components.data.locate(group["origin"])
    assert len(places) == VALIDATED
    assert components.val is not None
    skipped = SkippedStructures(
        components.val.dataset,
        components.val.sampler,
        locate=components.data.locate,
        device=torch.device("cpu"),
        communicator=Communicator(),
    )
    assert skipped.describe_new(np.zeros(VALIDATED)) == ""
    assert skipped.describe_new(np.arange(VALIDATED) == 1) == places[1]
    del places[1]
    assert skipped.describe_new(np.ones(VALIDATED)) == "; ".join([*places[:10], "and 1 more"])
    assert skipped.describe_new(np.ones(VALIDATED)) == ""
