"""Checks of the texts, tables, images, histograms and artifacts shown by the backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from telemetry.errors import SinkRejected
from telemetry.records import MEDIA_KINDS, Record, kind_of
from telemetry.run_folder.blobs import blob_path
from telemetry.testing.child import Report
from telemetry.testing.kit import Driver, Kit, call_with, run_in
from telemetry.testing.media import items_of, media_difference, media_sample
from telemetry.testing.points import resumed, sample

_FIRST = 11
"""Number of the first record of media, which follows points."""


class MediaChecks(Kit):
    """The media of the declared kinds are shown once, and all others ignored."""

    def test_media_are_shown_once_and_other_kinds_ignored(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        unknown = set(self._kinds(folder)) - set(MEDIA_KINDS)
        assert not unknown, f"media contains {sorted(unknown)}; the kinds are {', '.join(MEDIA_KINDS)}"
        records = _records(folder)
        driver = self.open_sink(folder)
        try:
            for start in (0, len(records) - 8, 5):
                # As after a failure, records are delivered again.
                driver.write(records[start:])
        except Exception as error:
            msg = f"sink_write raised {error!r} for records of media; ignore the kinds that the sink does not show"
            raise AssertionError(msg) from error
        driver.close()
        self._check(folder, records, "Show each record once, with its name, step and content; `media` declares which.")

    def test_media_survive_a_kill_between_write_and_acknowledgment(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        if not self._kinds(folder):
            return
        with self.child("_write_media", folder) as writer:
            writer.read()
        records = [*_records(folder), *media_sample(folder, 31)]
        self.deliver(folder, records)
        self._check(folder, records, "After a kill, records are delivered again; skip those that the backend has.")

    def test_media_of_a_new_attempt_that_starts_earlier_are_shown_as_declared(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        if not self._kinds(folder):
            return
        first: list[Record] = [*media_sample(folder, 1, step=10), *media_sample(folder, 6, step=20)]
        start = 10**9 + 1
        again: list[Record] = [resumed(start, step=10), *media_sample(folder, start + 1, step=20)]
        self.deliver(folder, first)
        self.deliver(folder, [*first, *again], attempt=2)
        kept: Sequence[Record] = first if self.rewinds == "kept" else first[:5]
        remedy = f"Resumed(step=10) supersedes earlier media beyond iteration 10; rewinds is {self.rewinds!r}."
        self._check(folder, [*kept, *again], remedy)

    def test_media_without_their_content_are_rejected_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        kinds = self._kinds(folder)
        records = _records(folder)
        driver = self.open_sink(folder)
        driver.write(records[: _FIRST - 1])
        damaged = [r for r in records if kind_of(r) in kinds and hasattr(r, "blob")]
        for number, record in enumerate(damaged):
            path = blob_path(folder, record.blob)
            if number % 2:
                path.write_bytes(b"changed")
            else:
                path.unlink()
        for record in records[_FIRST - 1 :]:
            is_rejected = _is_rejected(driver, record)
            assert is_rejected == (record in damaged), (
                f"sink_write {'raised' if is_rejected else 'did not raise'} SinkRejected for a record of kind "
                f"{kind_of(record)} whose content is {'intact' if is_rejected else 'missing or has changed'}; read "
                "contents with read_blob or verified_blob of telemetry.sink_api"
            )
        driver.close()
        self._check(folder, [r for r in records if r not in damaged], "Delivery sets rejected records aside.")

    def _write_media(self, report: Report, folder: str) -> Driver:
        driver = self.open_sink(Path(folder))
        report(driver.write(_records(Path(folder))))
        return driver

    def _kinds(self, folder: Path) -> tuple[str, ...]:
        return tuple(getattr(self.make_sink(folder), "media", ()))

    def _check(self, folder: Path, records: Iterable[Record], remedy: str) -> None:
        records = list(records)
        kinds = self._kinds(folder)
        self.check_shows(folder, records, f"Media must not disturb the curves. {remedy}")
        if kinds:
            expected = [self.shown_media(item) for item in items_of(folder, records) if item.kind in kinds]
            found = list(call_with(self.read_back_media, run_in(folder), folder))
            if not self.exactly_once:
                found = [item for number, item in enumerate(found) if item not in found[:number]]
            wrong = media_difference(found, expected)
            assert not wrong, f"{wrong}. {remedy}"


def _records(folder: Path) -> list[Record]:
    """Return points, followed by media of each kind, and further points."""
    return [*sample(1, _FIRST - 1), *media_sample(folder, _FIRST), *sample(_FIRST + 5, _FIRST + 9)]


def _is_rejected(driver: Driver, record: Record) -> bool:
    try:
        driver.write([record])
    except SinkRejected:
        return True
    return False
