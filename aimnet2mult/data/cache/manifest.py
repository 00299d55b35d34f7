"""The manifest of a cache: of which data it is, how they have been read, and which files it consists of."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from aimnet2mult.data.cache.source import Source
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.quantities import Label
from telemetry.run_folder.atomic_write import atomic_write

__all__ = ["MANIFEST", "GroupRecords", "Manifest", "Reading", "read_manifest", "write_manifest"]

VERSION = 1
"""Version of the format; caches of other versions are not used."""
MANIFEST = "cache.json"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How data are read and checked."""

    labels: dict[str, tuple[bool, int]]
    """For each label, whether it is per atom, and its number of components."""
    names: dict[str, str]
    factors: dict[str, float]
    min_distance: float
    max_element: int

    @classmethod
    def of(
        cls, labels: Sequence[Label], file_format: FileFormat, *, min_distance: float, max_element: int
    ) -> "Reading":
        """Return the arguments of a check as plain values."""
        return cls(
            labels={label.name: (label.per_atom, label.components) for label in labels},
            names=dict(file_format.names),
            factors=dict(file_format.factors),
            min_distance=min_distance,
            max_element=max_element,
        )

    def covers(self, other: "Reading") -> bool:
        """Return whether a cache of data that were read in this way also has all that another way needs."""
        has_labels = self.labels.items() >= other.labels.items()
        return has_labels and msgspec.structs.replace(self, labels=other.labels) == other


class GroupRecords(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a size group."""

    atoms: int
    rows: int
    shapes: dict[str, tuple[int, ...]]
    """Shape of each input and label of a structure."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a cache."""

    version: int = VERSION
    path: str
    """Path of the data when the cache was built, for the user."""
    reading: Reading
    checksum: str
    """SHA-256 of the data."""
    sources: tuple[Source, ...]
    """States in which the files of the data have been found to have this content."""
    groups: tuple[GroupRecords, ...]
    """Size groups with records; those that can be read quickly in the data file itself have none."""
    complete: bool
    """Whether all groups with structures have records."""


_decoder = msgspec.json.Decoder(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, followed by a line with its CRC-32.

    Raises:
        OSError: It cannot be written.
    """
    text = msgspec.json.encode(manifest)
    atomic_write(folder / MANIFEST, b"%s\n%08x\n" % (text, zlib.crc32(text)))


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder; None if there is none, or if it is damaged or of another version."""
    try:
        text, crc, _ = (folder / MANIFEST).read_bytes().split(b"\n")
        if crc != b"%08x" % zlib.crc32(text):
            return None
        manifest = _decoder.decode(text)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    return manifest if manifest.version == VERSION else None
