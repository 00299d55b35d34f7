"""The arrays in TorchScript archives are read without executing the code of the archives."""

import os
import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from aimnet2mult.models.script_archive import read_torch_script
from support.damage import damage_bytes, damage_pickle
from support.published import write_script

SHARED = torch.arange(5.0)
ARRAYS = {
    "a.0.weight": torch.randn(3, 4),
    "a.0.part": torch.randn(4, 5).T[1:],
    "b.c.precise": torch.randn(2, dtype=torch.float64),
    "b.c.scalar": torch.tensor(1.5),
    "b.numbers": torch.arange(3),
    "b.flags": torch.tensor([True, False]),
    "b.empty": torch.empty(0),
    "one": SHARED,
    "other": SHARED,
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_script(tmp_path / "model.jpt", ARRAYS)


def rewrite(path: Path, pickled: bytes, **options: Any) -> Path:
    """Write an archive with another ``data.pkl``."""
    target = path.with_name("changed.jpt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name), **options)
    return target


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_the_arrays_are_those_of_the_state_dict(archive: Path) -> None:
    found = read_torch_script(archive)
    expected = torch.jit.load(str(archive)).state_dict()  # type: ignore[no-untyped-call] # torch
    assert found.keys() == expected.keys() == ARRAYS.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert torch.equal(found[name], array)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_code_is_not_executed(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"other objects than tensors and plain values, such as posix\.system"):
        read_torch_script(rewrite(archive, pickle.dumps({"a": Evil()}, 2)))
    assert not Path("ran").exists()


def test_broken_code_does_not_matter_because_it_is_never_read(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "broken.jpt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            compression = zipfile.ZIP_DEFLATED if "/code/" in name else zipfile.ZIP_STORED
            content = b"import os; os.abort()" if "/code/" in name else old.read(name)
            new.writestr(name, content, compress_type=compression)
    assert read_torch_script(target).keys() == ARRAYS.keys()


def test_compressed_arrays_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive) as old:
        content = next(old.read(name) for name in old.namelist() if name.endswith("/data.pkl"))
    with pytest.raises(ValueError, match=r"is compressed, which torch.save does not do"):
        read_torch_script(rewrite(archive, content, compress_type=zipfile.ZIP_DEFLATED))


def test_an_array_beyond_its_values_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive) as old:
        content = next(old.read(name) for name in old.namelist() if name.endswith("/data.pkl"))
    # The shape (3, 4).
    changed = content.replace(b"(K\x03K\x04t", b"(K\x04K\x04t", 1)
    assert changed != content
    with pytest.raises(ValueError, match="an array extends beyond its values"):
        read_torch_script(rewrite(archive, changed))


def test_values_shared_by_many_arrays_are_read_once(tmp_path: Path) -> None:
    values = torch.zeros(2**22)
    path = write_script(tmp_path / "shared.jpt", {f"a{index}": values[index : index + 2] for index in range(500)})
    tracemalloc.start()
    found = read_torch_script(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 500
    assert peak < 5 * path.stat().st_size


def test_a_name_of_endless_length_is_refused(tmp_path: Path) -> None:
    path = write_script(tmp_path / "long.jpt", {"a" * 1001: torch.zeros(1)})
    with pytest.raises(ValueError, match="a name is too long"):
        read_torch_script(path)


def test_random_damage_never_ends_in_another_exception(archive: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "damaged.jpt", archive.read_bytes()
    refused = 0
    for seed in range(200):
        rng = random.Random(seed)
        if seed % 2:
            path.write_bytes(damage_bytes(content, rng))
        else:
            damage_pickle(archive, path, rng)
        try:
            read_torch_script(path)
        except ValueError:
            refused += 1
    assert 50 < refused < 200
