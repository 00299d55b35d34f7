"""Where the structures of data files are read: in their caches, in copies on a disk of this machine, or in the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aimnet2mult.data.cache.entry import open_entry
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_rows import open_rows
from aimnet2mult.data.row_store import RowStore
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["Places"]
