"""Changed settings and model definitions give errors in plain words, one line per problem, and nothing else.

A small part of `tests/chaos/test_settings.py`.
"""

from pathlib import Path

import pytest

from support.mutations import KINDS, try_mutations


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_valid_or_gives_plain_lines(kind: str, tmp_path: Path) -> None:
    valid = try_mutations(kind, tmp_path, seed=1, count=60)
    assert 0 < valid < 60
