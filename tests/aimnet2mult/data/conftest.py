"""Small data sets in files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest

from support.small_groups import Group


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes groups by number of atoms to an HDF5 file."""

    def write_file(groups: Mapping[Any, Group], name: str = "data.h5") -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for size, arrays in groups.items():
                group = file.create_group(f"{size:03d}" if isinstance(size, int) else size)
                for key, array in arrays.items():
                    group[key] = array
        return path

    return write_file
