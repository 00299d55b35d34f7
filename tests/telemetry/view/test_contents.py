"""Images, tables, texts, histograms and artifacts as HTML, from run folders that nobody can trust."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bokeh")

from support.png_images import png
from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.records import Artifact, Histogram, Image, Media, Table, Text
from telemetry.run_folder.blobs import blob_path, blobs_folder
from telemetry.view.contents import MAX_CHARACTERS, MAX_IMAGE_BYTES, MAX_ROWS, content_html
from telemetry.view.media_section import newest_items
from telemetry.view.run_entry import RunEntry
from telemetry.view.store import RunStore

HOSTILE = "<img src=x onerror=alert(1)>'\"</pre><script>alert(1)</script>"


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water", metrics={"val/E_error": Metric(unit="kcal/mol")})


def entry_of(run: WrittenRun) -> RunEntry:
    store = RunStore([run.folder])
    store.refresh()
    (entry,) = store.runs()
    return entry


def html(run: WrittenRun, kind: type[Media], content: bytes = b"", **what: Any) -> str:
    """Record something, and return what is shown of it."""
    run.media(kind, "val/x", 100, content, **what)
    entry = entry_of(run)
    return content_html(entry, entry.media[-1])


def table(run: WrittenRun, columns: list[str], rows: list[list[object]]) -> str:
    return html(run, Table, json.dumps({"columns": columns, "rows": rows}).encode(), suffix=".json")


def test_an_image_is_part_of_the_page_and_has_its_size(run: WrittenRun) -> None:
    shown = html(run, Image, png(30, 20), suffix=".png", width=1, height=1, caption=HOSTILE)
    assert "<img width=30 height=20 alt='val/x' src='data:image/png;base64,iVBORw0KGgo" in shown
    assert shown.count("<") == shown.count("</") + 2  # the image, and the text after it
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<svg onload='alert(1)'>", "not a PNG image"),
        (png(30, 0), "not a PNG image"),
        (png(100_000, 100_000), "100,000 by 100,000 pixels"),
        (b"\0" * (MAX_IMAGE_BYTES + 1), "is too much for this page"),
    ],
)
def test_what_is_not_an_image_of_a_reasonable_size_is_not_shown(run: WrittenRun, content: bytes, reason: str) -> None:
    shown = html(run, Image, content, suffix=".png", width=10, height=10)
    assert shown.startswith("<p class='error'>Not shown: ")
    assert reason in shown
    assert "svg" not in shown


def test_a_text_is_shown_as_it_is(run: WrittenRun) -> None:
    shown = html(run, Text, f"# Title\n\n\ta **b** \x1b[31m\n{HOSTILE}".encode(), suffix=".md")
    assert shown.startswith("<pre># Title\n\n        a **b**  [31m\n&lt;img src=x onerror")
    assert shown.count("<") == 2


def test_the_beginning_of_a_long_text_is_shown(run: WrittenRun) -> None:
    shown = html(run, Text, b"x" * (MAX_CHARACTERS + 1))
    assert shown.count("x") == MAX_CHARACTERS
    assert "The first 20,000 of 20,001 characters" in shown


def test_the_numbers_of_a_table_are_aligned(run: WrittenRun) -> None:
    shown = table(run, ["element", "atoms", HOSTILE], [["H", 12000, 0.123456], ["C", 7, "NaN"], [None, True, HOSTILE]])
    assert "<th>element</th><th class='number'>atoms</th><th class='number'>&lt;img" in shown
    assert "<td>H</td><td class='number'>12,000</td><td class='number'>0.1235</td>" in shown
    assert "<td></td><td>True</td><td>&lt;img" in shown
    assert "<script" not in shown


def test_the_beginning_of_a_long_table_is_shown(run: WrittenRun) -> None:
    shown = table(run, ["a"] * 1000, [[n] * 1000 for n in range(MAX_ROWS + 1)])
    assert shown.count("<tr>") == MAX_ROWS + 1
    assert shown.count("<th") == 40
    assert f"The first {MAX_ROWS} of {MAX_ROWS + 1} rows" in shown


@pytest.mark.parametrize("content", [b"", b"[]", b'{"columns": [], "rows": [[{}]]}', b"[" * 10_000])
def test_what_is_not_a_table_is_not_shown(run: WrittenRun, content: bytes) -> None:
    assert "Not shown: not a table" in html(run, Table, content)


def test_a_histogram_has_a_bar_for_each_bin_and_the_unit_of_its_metric(run: WrittenRun) -> None:
    run.media(Histogram, "val/E_error", 100, edges=[-1.0, 0.0, 0.5, 2.0], counts=[5.0, 20.0, 0.0])
    entry = entry_of(run)
    shown = content_html(entry, entry.media[0])
    bars = re.findall(r"<rect x='([\d.]+)' y='[\d.]+' width='([\d.]+)' height='([\d.]+)'><title>(.*?)</title>", shown)
    assert bars[0] == ("0.00", "132.83", "32.50", "-1.000 to 0.000: 5")
    assert [float(height) for _, _, height, _ in bars] == [32.5, 130, 0]
    assert ">kcal/mol</text>" in shown
    assert "25 values, up to 20 in a bin" in shown


@pytest.mark.parametrize(("edges", "counts"), [([0.0, 1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0]), ([0.0, 1.0], [-1.0])])
def test_a_histogram_without_sense_is_not_shown(run: WrittenRun, edges: list[float], counts: list[float]) -> None:
    assert "Not shown: the edges are not ascending" in html(run, Histogram, edges=edges, counts=counts)


def test_a_histogram_may_be_empty_or_enormous(run: WrittenRun) -> None:
    assert "0 values" in html(run, Histogram, edges=[0.0, 1.0], counts=[0.0])
    assert "<svg" in html(run, Histogram, edges=[-1.7e308, 0.0, 1.7e308], counts=[1e308, 1e308])


def test_an_artifact_is_listed_with_its_size_and_checksum(run: WrittenRun) -> None:
    shown = html(run, Artifact, b"x" * 1500, suffix=".pt", file=HOSTILE, type="model")
    (record,) = entry_of(run).media
    assert isinstance(record, Artifact)
    assert ", model, 1.5 kB<br>" in shown
    assert f">{record.blob.sha256[:12]}</code>" in shown
    assert "<script" not in shown


class TestDamage:
    @pytest.mark.parametrize("kind", [Text, Artifact])
    @pytest.mark.parametrize("damage", ["missing", "changed", "longer", "link", "pipe"])
    def test_damaged_contents_are_reported(self, run: WrittenRun, kind: type[Media], damage: str) -> None:
        what = {"file": "a", "type": "b"} if kind is Artifact else {}
        run.media(kind, "val/x", 100, b"hello", **what)
        entry = entry_of(run)
        record: Any = entry.media[0]
        path = blob_path(run.folder, record.blob)
        path.unlink()
        if damage == "changed":
            path.write_bytes(b"hullo" if kind is Text else b"hull")
        elif damage == "longer":
            path.write_bytes(b"hello world")
        elif damage == "link":
            (run.folder / "secret").write_bytes(b"hello")
            path.symlink_to(run.folder / "secret")
        elif damage == "pipe":
            os.mkfifo(path)
        shown = content_html(entry, record)
        assert shown.startswith("<p class='error'>Not shown: ")
        assert "hello" not in shown

    def test_a_run_without_its_blobs_can_be_read(self, run: WrittenRun) -> None:
        run.media(Text, "val/x", 100, b"hello")
        for path in blobs_folder(run.folder).iterdir():
            path.unlink()
        blobs_folder(run.folder).rmdir()
        entry = entry_of(run)
        assert "is missing" in content_html(entry, entry.media[0])


class TestNewest:
    def test_it_is_the_newest_of_each_kind_and_name_until_the_iteration(self, run: WrittenRun) -> None:
        for step in (100, 200):
            run.media(Image, "val/a", step, width=1, height=1)
            run.media(Text, "val/a", step)
        run.media(Image, "val/b", 150, width=1, height=1)
        entry = entry_of(run)

        def newest(step: int | None) -> list[tuple[str, str, int]]:
            return [(type(r).__name__, r.name, r.step) for _, r in newest_items([entry], step)]

        assert newest(None) == [("Image", "val/a", 200), ("Image", "val/b", 150), ("Text", "val/a", 200)]
        assert newest(199) == [("Image", "val/a", 100), ("Image", "val/b", 150), ("Text", "val/a", 100)]
        assert newest(149) == [("Image", "val/a", 100), ("Text", "val/a", 100)]
        assert newest(99) == []

    def test_those_of_several_runs_follow_each_other_by_name(self, tmp_path: Path) -> None:
        entries = []
        for name in ("water", "ice"):
            run = WrittenRun(tmp_path / "runs" / name)
            for metric in ("val/a", "val/b"):
                run.media(Text, metric, 100)
            entries.append(entry_of(run))
        found = [(item.record.name, item.entry.label) for item in newest_items(entries)]
        assert found == [("val/a", "water"), ("val/a", "ice"), ("val/b", "water"), ("val/b", "ice")]

    def test_what_a_resume_has_superseded_is_not_shown(self, run: WrittenRun) -> None:
        for step in (100, 200):
            run.media(Text, "val/a", step)
        run.begin(resume_step=100, attempt=2)
        assert [item.record.step for item in newest_items([entry_of(run)])] == [100]
