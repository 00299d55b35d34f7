"""New files appear only once they are complete."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from aimnet2mult.data.conversion.writer import new_file
from aimnet2mult.errors import DataError

ATOM = {"numbers": np.ones(1, np.int32), "coord": np.zeros((1, 3), np.float32)}


def write(path: Path, *, during: Callable[[], object]) -> None:
    with new_file(path) as writer:
        writer.add(ATOM)
        during()


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.h5", during=Mock(side_effect=KeyboardInterrupt))
    assert list(tmp_path.iterdir()) == []


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    killed = tmp_path / ".a.h5.0123456789abcdef.tmp"
    killed.touch()
    with new_file(tmp_path / "a.h5") as writer:
        writer.add(ATOM)
        assert not (tmp_path / "a.h5").exists()
        assert not killed.exists()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["001/numbers"].shape == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.h5 already exists"):
        write(tmp_path / "a.h5", during=lambda: (tmp_path / "a.h5").write_text("precious"))
    assert (tmp_path / "a.h5").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1
