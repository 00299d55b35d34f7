"""The cache of a data file is built once, also by several processes and after an interruption, or not at all."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.cache.builder import Builder
from aimnet2mult.data.cache.entry import Entry
from aimnet2mult.data.checks import check_files
from aimnet2mult.errors import DataError
from support.data_caches import LABELS, as_plain, build, building, open_cache, write_chunked
from support.labels import built_in
from support.small_groups import make_group


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_chunked(tmp_path / "data.h5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs/data-cache"


def start(path: Path, folder: Path, *more: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "support.data_caches", str(path), str(folder), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def read(entry: Entry, atoms: int) -> dict[str, np.ndarray[Any, Any]]:
    (group,) = (group for group in entry.manifest.groups if group.atoms == atoms)
    store = entry.store(group, LABELS)
    return store.read(np.arange(store.rows), ["coord", "numbers", "charge", "mult", "energy", "forces"])


def check_arrays(entry: Entry, path: Path) -> None:
    """Check that the records are the arrays of the file."""
    with h5py.File(path) as file:
        for name, group in file.items():
            found = read(entry, int(name))
            for key in ("coord", "numbers", "charge", "energy", "forces"):
                np.testing.assert_array_equal(found[key], group[key][:].astype(found[key].dtype))


def visible(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def test_the_records_are_the_structures_and_the_content_is_that_of_the_checks(path: Path, folder: Path) -> None:
    entry, content = building(path, folder).run()
    assert entry is not None
    check_arrays(entry, path)
    checked = check_files([path], labels=LABELS).contents[str(path)]
    assert as_plain(content) == as_plain(checked)
    assert as_plain(entry.content(path)) == as_plain(checked)
    assert visible(folder) == [entry.folder.name]
    assert entry.folder.name.startswith("data-")


def test_a_second_start_uses_the_cache_without_reading_the_data(path: Path, folder: Path) -> None:
    entry = build(path, folder)
    said: list[str] = []
    found = open_cache(folder, said.append).find(path)
    assert found is not None
    assert found[0].folder == entry.folder
    assert said == []


def test_records_contain_bad_structures_and_the_report_names_them(tmp_path: Path, folder: Path) -> None:
    group = make_group(3, 40, labels=("energy", "forces"))
    group["numbers"][7] = [1, 300, -4]
    group["coord"][9, 1] = group["coord"][9, 2]
    group["energy"][11] = np.inf
    path = write_chunked(tmp_path / "bad.h5", {3: group})
    entry = build(path, folder)
    found = read(entry, 3)
    np.testing.assert_array_equal(found["coord"], group["coord"])
    assert np.isnan(found["energy"][11])
    assert found["numbers"][7].tolist() == [1, 255, 255]
    report, checked = entry.content(path).report, check_files([path], labels=LABELS)
    assert report.bad_structures.lines() == checked.bad_structures.lines()
    assert report.skipped[str(path), "003"].tolist() == [7, 9]
    assert report.warnings.lines() == checked.warnings.lines()


def test_contiguous_groups_are_not_copied(tmp_path: Path, folder: Path) -> None:
    groups = {atoms: make_group(atoms, 10) for atoms in (3, 5)}
    path = tmp_path / "contiguous.h5"
    with h5py.File(path, "w") as file:
        for key, array in groups[3].items():
            file[f"003/{key}"] = array
        for key, array in groups[5].items():
            file.create_dataset(f"005/{key}", data=array, chunks=True)
    entry = build(path, folder)
    assert not entry.manifest.complete
    assert sorted(os.listdir(entry.folder)) == ["005.npy", "cache.json", "content.npz"]


def test_a_copied_and_a_touched_file_are_recognized_by_their_checksum(path: Path, folder: Path) -> None:
    entry = build(path, folder)
    moved = Path(shutil.copy(path, path.with_name("copy.h5")))
    os.utime(path, ns=(1, 1))
    for file in (moved, path):
        said: list[str] = []
        for _ in range(2):
            found = open_cache(folder, said.append).find(file)
            assert found is not None
            assert found[0].folder == entry.folder
        # Only the first time: the second one knows the file.
        assert [line.partition(" with ")[0] for line in said] == [f"comparing {file}"]
    assert found[1].report.files[0].path == str(path)


def test_a_copy_is_named_in_the_messages_of_the_checks(tmp_path: Path, folder: Path) -> None:
    group = make_group(3, 40, labels=("energy", "forces"))
    group["coord"][9, 1] = group["coord"][9, 2]
    group["forces"][4] = 1e4
    path = write_chunked(tmp_path / "bad.h5", {3: group})
    build(path, folder)
    moved = Path(shutil.copy(path, tmp_path / "moved.h5"))
    found = open_cache(folder).find(moved)
    assert found is not None
    checked = check_files([moved], labels=LABELS)
    assert as_plain(found[1].report) == as_plain(checked.contents[str(moved)].report)


def test_a_changed_file_gets_a_new_cache(path: Path, folder: Path) -> None:
    first = build(path, folder)
    with h5py.File(path, "a") as file:
        file["003/energy"][5] = 42
    assert open_cache(folder).find(path) is None
    second = build(path, folder)
    assert second.folder != first.folder
    assert read(second, 3)["energy"][5] == 42
    check_arrays(second, path)


@pytest.mark.parametrize(
    "changes", [{"min_distance": 0.2}, {"max_element": 20}, {"labels": built_in("energy", "forces", "charges")}]
)
def test_data_that_are_read_in_another_way_need_another_cache(path: Path, folder: Path, changes: Any) -> None:
    build(path, folder)
    assert open_cache(folder, **changes).find(path) is None


def test_fewer_labels_do_not_need_another_cache(path: Path, folder: Path) -> None:
    entry = build(path, folder)
    found = open_cache(folder, labels=LABELS[:1]).find(path)
    assert found is not None
    assert found[0].folder == entry.folder


def test_a_file_that_changes_while_it_is_read_is_an_error(path: Path, folder: Path) -> None:
    def progress(done: int, _: int) -> None:
        if done > 40:
            os.utime(path, ns=(1, 1))

    with pytest.raises(DataError, match=r"data\.h5 has changed while it was read; start again once it is complete"):
        build(path, folder, progress=progress)
    assert visible(folder) == []
    assert not list(folder.glob(".*.partial"))


def test_unusable_data_have_no_cache_and_all_their_errors(path: Path, folder: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["005/forces"]
    entry, content = building(path, folder).run()
    assert entry is None
    assert content.report.errors.lines() == check_files([path], labels=LABELS).errors.lines() != []
    assert visible(folder) == []


# ---------------------------------------------------------------- interruptions


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    """Wait until a process prints a line."""
    assert process.stdout is not None
    assert line in (text.rstrip() for text in iter(process.stdout.readline, ""))


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("stop", [20, 60, 80])
def test_a_killed_build_continues_and_the_result_is_the_same(path: Path, folder: Path, stop: int) -> None:
    killed = start(path, folder, str(stop))
    wait_for(killed, str(stop))
    kill(killed)
    assert visible(folder) == []
    said: list[str] = []
    seen: list[int] = []
    entry, content = building(path, folder, said.append, progress=lambda done, _: seen.append(done)).run()
    assert entry is not None
    # The last block, whose state was not saved any more, is read again.
    assert seen == [*range(stop, 81, 20)]
    assert said[0].startswith("continuing the data cache of " if stop > 20 else "building the data cache of ")
    check_arrays(entry, path)
    assert as_plain(content) == as_plain(check_files([path], labels=LABELS).contents[str(path)])
    assert sorted(os.listdir(entry.folder)) == ["003.npy", "004.npy", "005.npy", "006.npy", "cache.json", "content.npz"]


def test_a_build_continues_within_a_group(tmp_path: Path, folder: Path) -> None:
    group = make_group(3, 40_000, labels=("energy", "forces"))
    group["coord"][:, 0, 0] %= 7
    path = write_chunked(tmp_path / "large.h5", {3: group}, chunk=1000)
    interrupt(path, folder, 34_000)
    seen: list[int] = []
    entry, content = building(path, folder, progress=lambda done, _: seen.append(done)).run()
    assert entry is not None
    assert seen == [34_000, 40_000]
    check_arrays(entry, path)
    assert as_plain(content) == as_plain(check_files([path], labels=LABELS).contents[str(path)])


def interrupt(path: Path, folder: Path, stop: int) -> Path:
    """Interrupt a build after a number of structures, and return the folder with what has been written."""

    def progress(done: int, _: int) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(path, folder, progress=progress, save_interval=0)
    (partial,) = folder.glob(".*.partial")
    return partial


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda partial: flip(partial / "003.npy", -40 * 4),
        lambda partial: flip(partial / "003.npy", 3),
        lambda partial: os.truncate(partial / "003.npy", 500),
        lambda partial: (partial / "003.npy").unlink(),
        lambda partial: flip(partial / "state.npz", 300),
        lambda partial: os.truncate(partial / "state.npz", 300),
        lambda partial: (partial / "state.npz").unlink(),
    ],
    ids=["record", "header", "truncated", "missing", "state", "truncated state", "missing state"],
)
def test_a_build_does_not_continue_with_damaged_files(
    path: Path, folder: Path, damage: Callable[[Path], object]
) -> None:
    damage(interrupt(path, folder, 60))
    seen: list[int] = []
    entry = build(path, folder, progress=lambda done, _: seen.append(done))
    assert seen[0] == 20
    check_arrays(entry, path)


# ---------------------------------------------------------------- several processes


def test_of_two_processes_one_builds_and_the_other_takes_over_when_it_dies(path: Path, folder: Path) -> None:
    first = start(path, folder, "40")
    wait_for(first, "40")
    second = start(path, folder)
    assert second.stdout is not None
    line = second.stdout.readline()
    assert line.startswith(f"waiting for the data cache of {path}, which process {first.pid} on ")
    kill(first)
    rest = second.communicate()[0].splitlines()
    assert second.returncode == 0
    assert rest[1:] == ["40", "60", "80", "built"]
    found = open_cache(folder).find(path)
    assert found is not None
    check_arrays(found[0], path)


def test_of_processes_that_start_together_one_reads_the_data(path: Path, folder: Path) -> None:
    processes = [start(path, folder) for _ in range(3)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [output[-1] for output in outputs] == ["built"] * 3
    assert sorted("80" in output for output in outputs) == [False, False, True]
    assert len(visible(folder)) == 1


def test_a_process_that_was_suspended_for_long_uses_what_another_has_built(path: Path, folder: Path) -> None:
    """The other process takes over while the first one is between two blocks."""
    clock = [0.0]
    others: list[Entry] = []

    def progress(done: int, _: int) -> None:
        if done == 40 and not others:
            (lease,) = folder.glob(".*.lease-1")
            lease.write_text(lease.read_text().replace('"released":false', '"released":true'))
            others.append(build(path, folder))
            clock[0] = 1e6

    entry = build(path, folder, progress=progress, clock=lambda: clock[0])
    assert entry.folder == others[0].folder
    assert len(visible(folder)) == 1
    assert not list(folder.glob(".*.partial"))
    check_arrays(entry, path)


# ---------------------------------------------------------------- folders that cannot be written


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writing beyond a size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [600, 2000, 3500])
def test_a_full_disk_ends_the_build_but_not_the_checks(path: Path, folder: Path, size: int) -> None:
    said: list[str] = []
    seen: list[int] = []
    with file_size_limit(size):
        entry, content = building(path, folder, said.append, progress=lambda done, _: seen.append(done)).run()
    assert entry is None
    assert as_plain(content) == as_plain(check_files([path], labels=LABELS).contents[str(path)])
    # In a single pass over the data.
    assert seen == [20, 40, 60, 80]
    (_, line) = said
    assert line == (
        f"warning: no data cache of {path} in {folder}: File too large; the file is read directly, which may be slow; "
        "set data.cache to a folder on another disk, or to off"
    )
    assert visible(folder) == []
    assert not list(folder.glob(".*.partial"))


def test_a_cache_that_does_not_fit_is_not_begun(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    said: list[str] = []
    entry, content = building(path, folder, said.append).run()
    assert entry is None
    assert content.rows == 80
    (line,) = said
    assert line.startswith(f"warning: no data cache of {path} in {folder}: it takes 1")
    assert " kB, but only 1 kB are free; the file is read directly" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_means_no_cache(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    said: list[str] = []
    entry, content = building(path, folder, said.append).run()
    assert (entry, content.rows) == (None, 80)
    assert "Permission denied" in said[0]


def test_a_folder_that_cannot_be_created_means_no_cache(path: Path, folder: Path) -> None:
    folder.parent.write_text("a file")
    said: list[str] = []
    entry, content = building(path, folder, said.append).run()
    assert (entry, content.rows) == (None, 80)
    assert said[0].startswith(f"warning: no data cache of {path} in {folder}: ")


def test_an_error_of_the_disk_when_the_state_is_saved_ends_the_build(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Builder) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(Builder, "_save", fail)
    said: list[str] = []
    entry, content = building(path, folder, said.append, save_interval=0).run()
    assert (entry, content.rows) == (None, 80)
    assert "Disk quota exceeded; the file is read directly" in said[-1]
    assert not list(folder.glob(".*.partial"))
