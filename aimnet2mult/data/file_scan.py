"""The checks of one file, block by block, and its summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_evidence import FileEvidence
from aimnet2mult.data.file_format import FileFormat, array_type
from aimnet2mult.data.labels import InfiniteValues, is_missing
from aimnet2mult.data.layout import SizeGroup, read_frames, read_rows
from aimnet2mult.data.lost_interrupts import raising_lost_interrupts
from aimnet2mult.data.places import Segment
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.structures import count_electrons, find_bad, find_misfits
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["FileScan", "Listener"]

Array = npt.NDArray[Any]
Block = dict[str, Array]

STATE = ("summary", "report", "done", "_content", "_evidence", "_infinite")
"""Attributes of a scan that change."""


class Listener(Protocol):
    """Receives what a scan reads."""

    def start(self, group: SizeGroup) -> None:
        """Receive the next group."""

    def add(self, block: Mapping[str, Array]) -> None:
        """Receive the next structures of the group, in the units and types of the training; NaN if infinite."""


class FileScan:
    """The checks of one file, with a report of its problems.

    Args:
        path: The file.
        labels: Labels to check.
        file_format: Names and units of the arrays.
        min_distance: Smallest distance between two atoms, in Å.
        max_element: Largest atomic number that the model supports.
    """

    def __init__(
        self,
        path: Path,
        labels: Sequence[Label],
        file_format: FileFormat,
        *,
        min_distance: float,
        max_element: int,
    ) -> None:
        self.path = path
        self.labels = labels
        self.file_format = file_format
        self.summary = FileSummary(path=str(path))
        self._content = ContentScan(labels)
        self._evidence = FileEvidence()
        self._infinite = InfiniteValues()
        self._min_distance = min_distance
        self._max_element = max_element
        self.report = Report()
        self.done: dict[str, int] = {}
        """Number of structures read, by group."""

    def state(self) -> dict[str, Any]:
        """Return what changes in the course of the scan, for `restore`."""
        return {name: value for name, value in vars(self).items() if name in STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue another scan of the file after its `state`."""
        vars(self).update(state)

    def read(self, group: SizeGroup, listener: Listener | None = None) -> None:
        """Read and check the rows of a group, or the rest of them after some have been read before."""
        segment = Segment(self.path, group.name, group.rows, read_frames(group))
        if group.name not in self.done:
            self._content.start(group.name, group.atoms, group.rows, segment.frames)
            self.summary.groups += 1
            self.done[group.name] = 0
        damaged: set[str] = set()
        if listener is not None:
            listener.start(group)
        for rows in group.blocks():
            if rows.start < self.done[group.name]:
                continue
            with raising_lost_interrupts():
                block = self._read_block(group, rows, damaged)
            if {"numbers", "coord"} <= block.keys():
                read = self._check(segment, rows.start, block)
                self.done[group.name] = rows.stop
                if listener is not None and not damaged:
                    listener.add(read)
        for label in self._labels_in(group.arrays):
            self.summary.labels.setdefault(label, 0)

    def _read_block(self, group: SizeGroup, rows: slice, damaged: set[str]) -> Block:
        """Return rows of the arrays that are not damaged, as stored."""
        block: Block = {}
        for key in [key for key in group.arrays if key not in damaged]:
            try:
                block[key] = read_rows(group, key, rows, self.file_format)
            except DataError as error:
                damaged.add(key)
                self.report.errors.add("damaged arrays", [str(error)])
        return block

    def content(self) -> FileContent:
        """Return what has been found so far."""
        return self._content.finish(self._evidence.hashes, self.report)

    def finish(self) -> FileContent:
        """Complete the summary, look for problems of all structures together, and return what has been found."""
        self.report.warn_of_labels(self.summary.path, self._infinite.describe())
        content = self.content()
        factor = self.file_format.factors.get("energy", 1.0)
        self._evidence.conclude(content, self.summary, self.report, energy_factor=factor)
        return content

    def _check(self, segment: Segment, start: int, block: Block) -> Block:
        """Check a block of structures, whose first one is in row ``start``, and return it as training reads it."""
        stored_energy = block.get("energy")
        block = {key: self.file_format.convert(key, values) for key, values in block.items()}
        bad = np.zeros(len(block["numbers"]), np.bool_)
        for finding in find_bad(block, self._min_distance, self._max_element):
            rows = np.flatnonzero(finding.rows)
            self.report.add_bad(segment, finding.kind, start + rows, map(finding.describe, rows.tolist()))
            bad |= finding.rows
        self._infinite.mask(block, self._labels_in(block), segment.group, start)
        self.summary.structures += len(bad)
        self.summary.bad_structures += int(bad.sum())
        with np.errstate(invalid="ignore", over="ignore"):  # bad values
            read = {key: values.astype(array_type(key), copy=False) for key, values in block.items()}
        self._content.add(start, read, bad)
        good = {key: values[~bad] for key, values in block.items()} if bad.any() else block
        self._add(good, None if stored_energy is None else stored_energy[~bad])
        if "mult" in block:
            _warn_of_misfits(self.report, segment, start + np.flatnonzero(~bad), good)
        return read

    def _add(self, block: Block, stored_energy: Array | None) -> None:
        """Add good structures to the summary and to what is kept of each."""
        is_atom = block["numbers"] != 0
        self.summary.atoms += int(is_atom.sum())
        for label in (label for label in self.labels if label.name in block):
            missing = is_missing(block[label.name], is_atom, per_atom=label.per_atom)
            self.summary.labels[label.name] = self.summary.labels.get(label.name, 0) + int((~missing).sum())
        self._evidence.add(block, stored_energy)

    def _labels_in(self, arrays: Mapping[str, object]) -> list[str]:
        return [label.name for label in self.labels if label.name in arrays]


def _warn_of_misfits(report: Report, segment: Segment, rows: npt.NDArray[np.int64], block: Block) -> None:
    found = np.flatnonzero(find_misfits(block))
    electrons = count_electrons(block)
    report.warnings.add(
        "charges and multiplicities that contradict the number of electrons",
        (
            f"{segment.describe(int(rows[i]))}: mult {block['mult'][i]:g} is impossible with "
            f"{electrons[i]:g} electrons; check charge and mult"
            for i in found
        ),
        len(found),
    )
