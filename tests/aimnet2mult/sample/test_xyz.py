"""The sample data as extended xyz have the same values."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.sample.xyz import write_xyz

pytest.importorskip("ase")
SOURCE = Path(__file__).parents[3] / "aimnet2mult" / "sample" / "spgfn2.h5"


def test_a_converted_file_has_the_values_of_the_sample(tmp_path: Path) -> None:
    from aimnet2mult.data.conversion.convert import Options, convert

    with h5py.File(SOURCE) as source, h5py.File(tmp_path / "few.h5", "w") as few:
        for name in ("003", "005"):
            group = few.create_group(name)
            for key, dataset in source[name].items():
                group[key] = dataset[:30]
    write_xyz(tmp_path / "few.h5", tmp_path / "few.xyz")
    convert([tmp_path / "few.xyz"], tmp_path / "back.h5", Options(), lambda _: None)
    missing = 0
    with h5py.File(tmp_path / "few.h5") as few, h5py.File(tmp_path / "back.h5") as back:
        for name in ("003", "005"):
            for key in ("coord", "numbers", "charge", "mult", "energy", "forces", "charges", "spin_charges"):
                expected = few[name][key][()]
                np.testing.assert_allclose(back[name][key][()], expected, rtol=1e-6, atol=1e-6)
                missing += int(np.isnan(expected).sum())
    assert missing, "some forces are NaN"
