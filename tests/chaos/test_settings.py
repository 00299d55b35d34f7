"""Changed settings and model definitions give errors in plain words, one line per problem, and nothing else."""

from pathlib import Path

import pytest

from support.mutations import KINDS, try_mutations

COUNT = 400
"""Changed files of each kind and seed."""


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2, 10))
def test_a_changed_file_is_valid_or_gives_plain_lines(kind: str, seed: int, tmp_path: Path) -> None:
    valid = try_mutations(kind, tmp_path, seed=seed, count=COUNT)
    assert 0 < valid < COUNT
