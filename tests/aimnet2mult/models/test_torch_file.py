"""Files written by torch.save are checked before they are loaded: no code, no expansion, no endless reading."""

import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aimnet2mult.models.pickle_check import check_pickle
from aimnet2mult.models.torch_file import load_file, open_archive, read_pickle, read_plain
from support.damage import damage_bytes, damage_pickle, damage_values

CONTENT = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": [1, 2.5, "x", None, True]}}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original.pt"
    torch.save(CONTENT, path)
    return path


def rewrite(path: Path, **options: Any) -> Path:
    """Write the entries of an archive to another one, with the options of `ZipInfo` or of `writestr`."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, archive.read(name), **options)
    return target


def patch(path: Path, at: Callable[[bytes], int], value: bytes) -> Path:
    content = bytearray(path.read_bytes())
    start = at(bytes(content))
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


def central(content: bytes) -> int:
    return content.index(b"PK\x01\x02")


def duplicate(path: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        content = archive.read("original/data/0")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("original/data/0", content)
    return path


def overlap(path: Path) -> Path:
    """Let the second entry start where the first one does."""

    def second(content: bytes) -> int:
        return content.index(b"PK\x01\x02", central(content) + 1) + 42

    return patch(path, second, struct.pack("<L", 0))


def move(path: Path) -> Path:
    """State another position of the directory, which zipfile corrects and torch believes."""
    return patch(path, lambda content: content.rindex(b"PK\x06\x06") + 48, struct.pack("<Q", 8))


def spell(path: Path) -> Path:
    """Add an entry that torch does not distinguish from another one."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("original/DATA.PKL", b"")
    return path


def enlarge(path: Path) -> Path:
    """Let the last entry end after the end of the file."""
    return patch(path, lambda content: content.rindex(b"PK\x01\x02") + 20, struct.pack("<LL", 10**9, 10**9))


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "compressed": (lambda path: rewrite(path, compress_type=zipfile.ZIP_DEFLATED), "is compressed, which torch.save"),
    "encrypted": (lambda path: patch(path, lambda c: central(c) + 8, b"\x01"), r"'original/data.pkl' is encrypted"),
    "twice": (duplicate, "'original/data/0' occurs twice"),
    "overlapping": (overlap, "overlaps another one"),
    "larger than the file": (enlarge, "its entries are larger than the file"),
    "cut": (lambda path: (path.write_bytes(path.read_bytes()[:-30]) and path) or path, "damaged or incomplete"),
    "moved": (move, "its directory is not where its end states"),
    "another spelling": (spell, "DATA.PKL' occurs twice"),
    "early version": (
        lambda path: (path.write_bytes(pickle.dumps({})) and path) or path,
        "with torch 1.6 or later",
    ),
    "text": (lambda path: (path.write_text("weights") and path) or path, "expected a file written by torch.save$"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_archive_that_torch_does_not_write_is_refused(original: Path, what: str) -> None:
    change, message = BROKEN[what]
    with pytest.raises(ValueError, match=message):
        load_file(change(original))


def test_an_archive_is_loaded(original: Path) -> None:
    content = load_file(original)
    assert torch.equal(content["a"], CONTENT["a"])
    assert content["b"] == CONTENT["b"]
    assert load_file(rewrite(original))["b"] == CONTENT["b"]


def test_a_compressed_archive_is_refused_without_expanding_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        with archive.open("a/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"its entry 'a/data.pkl' is compressed"):
        load_file(tmp_path / "a.pt")


@pytest.mark.parametrize("what", ["pipe", "link", "folder", "nothing"])
def test_only_regular_files_are_opened(original: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.pt"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(original)
    elif what == "folder":
        path.mkdir()
    with pytest.raises(OSError, match=r"pipe|link|folder|directory"):
        load_file(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.jpt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("code/__torch__.py", "constants.pkl", "data.pkl"):
            archive.writestr(f"model/{name}", pickle.dumps((), 2))
    with pytest.raises(ValueError, match="it is a TorchScript archive, which contains code"):
        load_file(path)


def test_arrays_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="its arrays are larger than the file"):
        load_file(tmp_path / "a.pt")
    tied = torch.zeros(1000)
    torch.save({"a": tied, "b": tied}, tmp_path / "a.pt")
    assert load_file(tmp_path / "a.pt").keys() == {"a", "b"}


@pytest.mark.parametrize(
    "array",
    [torch.zeros(3, device="meta"), torch.eye(3).to_sparse()],
    ids=["without values", "sparse"],
)
def test_arrays_of_other_kinds_are_refused(tmp_path: Path, array: torch.Tensor) -> None:
    torch.save({"a": array}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="contains other objects than tensors and plain values, such as torch"):
        load_file(tmp_path / "a.pt")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def call(module: str, name: str, arguments: bytes) -> bytes:
    """Return the pickle of a call."""
    return b"\x80\x02c%b\n%b\n%b." % (module.encode(), name.encode(), arguments + b"R")


def copies(count: int) -> bytes:
    """Return the pickle of many dictionaries with the same 100,000 entries."""
    pairs = b"](" + b"K\x01K\x02\x86" * 100_000 + b"e"
    each = b"ccollections\nOrderedDict\nh\x01\x85R"
    return b"\x80\x02](" + pairs + b"q\x01" + each * count + b"e."


def doubling(depth: int) -> bytes:
    """Return the pickle of a tuple that contains another one twice, and so on."""
    return b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(depth)) + b"."


PICKLES = {
    "huge index": (b"\x80\x02}r\xff\xff\xff\x7f.", "reference out of range"),
    "doubling": (doubling(40), "nested too deeply or too often"),
    "deep": (b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".", "nested too deeply or too often"),
    "cycle": (b"\x80\x02]q\x00h\x00a.", "change of a value after a reference to it"),
    "change of a part": (b"\x80\x02]q\x00]q\x01\x86q\x02h\x01K\x01a.", "change of a value after a reference to it"),
    "long text": (b"\x80\x02X\xff\xff\xff\x7f.", "damaged, or not written by torch.save"),
    "other instruction": (pickle.dumps({"a": 1}, 4), "instruction FRAME"),
    "empty": (b"", "damaged"),
    "memory": (call("builtins", "bytearray", b"J\xff\xff\xff\x7f\x85"), "such as builtins.bytearray"),
    "slow encoding": (call("_codecs", "encode", b"X\x01\0\0\0aX\x08\0\0\0punycode\x86"), "such as _codecs.encode"),
    "copies": (copies(100), "nested too deeply or too often"),
    "attributes of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
        "attributes of a value that has none",
    ),
    "large": (b"\x80\x02" + bytes(2**25), "has 33,554,434 bytes; expected at most"),
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles_that_take_endless_time_or_memory_are_refused(what: str) -> None:
    content, message = PICKLES[what]
    with pytest.raises(ValueError, match=message):
        check_pickle(content)


def test_pickles_of_torch_are_accepted(original: Path) -> None:
    with open_archive(original) as (_, archive):
        assert read_pickle(archive)
    check_pickle(pickle.dumps({"a": [(1, 2), {"b": (1.5, "x", 2**40)}], "c": None}, 2))
    check_pickle(pickle.dumps([(0.9, 0.999)] * 3000, 2))
    shared = [1, 2]
    check_pickle(pickle.dumps({"a": shared, "b": shared, "c": [shared]}, 2))


def test_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "a.pt")
    with pytest.raises(
        ValueError, match=r"contains other objects than tensors and plain values, such as posix\.system"
    ):
        load_file(Path("a.pt"))
    assert not Path("ran").exists()


def test_dictionaries_with_attributes_are_refused(tmp_path: Path) -> None:
    state = torch.nn.Linear(1, 1).state_dict()
    torch.save(state, tmp_path / "a.pt")
    assert load_file(tmp_path / "a.pt").keys() == state.keys()
    state.get = 1  # type: ignore[method-assign, assignment]
    torch.save({"a": [state]}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it contains dictionaries with attributes"):
        load_file(tmp_path / "a.pt")
    assert read_plain(tmp_path / "a.pt")["a"][0].get("weight") is None


def test_random_damage_never_ends_in_another_exception(original: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "damaged.pt", original.read_bytes()
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        if seed % 3 == 0:
            path.write_bytes(damage_bytes(content, rng))
        elif seed % 3 == 1:
            damage_pickle(original, path, rng)
        else:
            torch.save(damage_values(CONTENT, rng), path)
        try:
            load_file(path)
        except ValueError:
            refused += 1
    assert 100 < refused < 290
