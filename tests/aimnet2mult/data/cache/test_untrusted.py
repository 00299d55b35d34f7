"""The cache of another user is untrusted: it can be used or not, but it executes, overwrites and waits for nothing."""

import dataclasses
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.cache.builder import Builder, records_of
from aimnet2mult.data.cache.entry import CONTENT_RECORDS, Entry
from aimnet2mult.data.cache.plain_objects import write_objects
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.layout import read_layout
from support.data_caches import LABELS, build, building, open_cache, write_chunked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_chunked(tmp_path / "data.h5")


@pytest.fixture
def entry(path: Path) -> Entry:
    return build(path, path.parent / "cache")


def find(entry: Entry, path: Path) -> tuple[Any, list[str]]:
    """Return the cache that is found, and the messages."""
    said: list[str] = []
    return open_cache(entry.folder.parent, said.append).find(path), said


def edit(entry: Entry, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, with a valid checksum."""
    file = entry.folder / "cache.json"
    manifest = json.loads(file.read_bytes().split(b"\n")[0])
    change(manifest)
    text = json.dumps(manifest).encode()
    file.write_bytes(b"%s\n%08x\n" % (text, zlib.crc32(text)))


@pytest.mark.parametrize(
    "change",
    [
        {"atoms": 0},
        {"atoms": -3},
        {"rows": 0},
        {"rows": -1},
        {"shapes": {"numbers": [3], "coord": [10**9, 10**9]}},
        {"shapes": {"numbers": [3], "coord": [2**31, 3]}},
        {"shapes": {"numbers": [3], "coord": [-1, 3]}},
        {"shapes": {"numbers": [3], "coord": [3, 3], "crc32": [3]}},
        {"shapes": {"numbers": [3], "coord": [3, 3], "../evil": [3]}},
        {"shapes": {"coord": [3, 3]}},
    ],
    ids=str,
)
def test_a_manifest_with_impossible_records_is_not_used(entry: Entry, path: Path, change: dict[str, Any]) -> None:
    edit(entry, lambda manifest: manifest["groups"][0].update(change))
    assert find(entry, path) == (None, [])


@pytest.mark.parametrize("change", [{"rows": 10**15}, {"rows": 19}, {"atoms": 5}], ids=str)
def test_records_of_another_size_are_not_used(entry: Entry, path: Path, change: dict[str, Any]) -> None:
    shapes = {"numbers": [5], "coord": [5, 3]} if "atoms" in change else {}
    edit(entry, lambda manifest: manifest.update(groups=manifest["groups"][:1]))
    edit(entry, lambda manifest: manifest["groups"][0].update(change, **({"shapes": shapes} if shapes else {})))
    found, said = find(entry, path)
    assert found is None
    assert "is damaged and not used" in said[0]


def test_a_manifest_that_lacks_groups_is_not_used(entry: Entry, path: Path) -> None:
    edit(entry, lambda manifest: manifest.update(groups=manifest["groups"][:1]))
    found, said = find(entry, path)
    assert found is None
    assert "it is of other groups than the records" in said[0]


@pytest.mark.parametrize("name", ["cache.json", "content.npz", "003.npy"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_something_else_in_place_of_a_file_delays_nothing(entry: Entry, path: Path, name: str, kind: str) -> None:
    file = entry.folder / name
    file.unlink()
    {"pipe": os.mkfifo, "device": lambda file: file.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](file)
    found, said = find(entry, path)
    assert found is None
    assert len(said) == (name != "cache.json")


def bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        stream = io.BytesIO()
        np.save(stream, np.zeros(10**7, np.uint8))
        archive.writestr("tree.npy", stream.getvalue())


def nested(file: Path) -> None:
    tree = '{"list":[' * 50_000 + "]}" * 50_000
    np.savez(file, tree=np.frombuffer(tree.encode(), np.uint8))


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(1 << 42)


def no_fields(file: Path) -> None:
    np.savez(file, tree=np.frombuffer(b'{"record":"FileContent","fields":{"dict":[]}}', np.uint8))


@pytest.mark.parametrize("write", [bomb, nested, sparse, no_fields])
def test_a_content_that_takes_much_memory_is_not_read(
    entry: Entry, path: Path, write: Callable[[Path], object]
) -> None:
    write(entry.folder / "content.npz")
    found, said = find(entry, path)
    assert found is None
    assert "content.npz cannot be read: " in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"composition": np.full(80, 1000, np.uint32)},
        {"composition": np.zeros(3, np.uint32)},
        {"energy": np.zeros(3)},
        {"energy": np.array(["x"] * 80)},
        {"energy": [1.0] * 80},
        {"bad": np.array([10**6], np.uint32)},
        {"bad": np.array([3, 3], np.uint32)},
        {"elements": (1,)},
        {"elements": ("H", "C")},
        {"groups": ()},
        {"report": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_content_whose_parts_do_not_fit_together_is_not_used(
    entry: Entry, path: Path, change: dict[str, Any]
) -> None:
    content = dataclasses.replace(entry.content(path), **change)
    with (entry.folder / "content.npz").open("wb") as file:
        write_objects(file, content, CONTENT_RECORDS, place=str(path))
    found, said = find(entry, path)
    assert found is None
    assert "content.npz cannot be read: " in said[0]


def test_a_link_in_an_unfinished_build_does_not_lead_to_another_file(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    victim = tmp_path / "victim"
    victim.write_text("precious")

    def progress(done: int, _: int) -> None:
        # Another process puts a link in place of the next file.
        if done == 20:
            (partial,) = folder.glob(".*.partial")
            (partial / "004.npy").symlink_to(victim)

    entry, _ = building(path, folder, progress=progress).run()
    assert entry is None
    assert victim.read_text() == "precious"


def test_a_process_that_has_been_superseded_does_not_empty_a_file_of_the_other(entry: Entry, path: Path) -> None:
    scan = building(path, entry.folder.parent).new_scan()
    before = (entry.folder / "003.npy").read_bytes()
    with h5py.File(path) as file:
        group = read_layout(path, file, LABELS, FileFormat()).groups[0]
        records = records_of(group)
        assert records is not None
        scan.done["003"] = 0
        with Builder(folder=entry.folder, scan=scan, groups={"003": records}) as builder:
            builder.start(group)
    assert (entry.folder / "003.npy").read_bytes() == before
