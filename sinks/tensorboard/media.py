"""Texts, tables, images and histograms as the summaries of TensorBoard's plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sinks._run_tables import escape_markdown, markdown_table
from telemetry.sink_api import Cell, Histogram, Image, Table, Text, read_blob, read_table, read_text

ShownMedia = Text | Table | Image | Histogram
MAX_ROWS = 500
"""Maximum number of rows of a table that is shown; the text plugin formats them all at each request."""

Value = Any
"""A ``Summary.Value`` message; the package has no type annotations."""


class MediaSummaries:
    """The summaries of media in one folder.

    A plugin shows a tag only if all of its summaries belong to this plugin. If another plugin already has the name of a
    record as a tag, the kind is appended.

    Args:
        folder: the run folder, which contains the contents.

    Attributes:
        plugins: the plugin of each tag in the folder.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.histogram import metadata as histograms
        from tensorboard.plugins.image import metadata as images
        from tensorboard.plugins.text import metadata as texts

        self._folder = folder
        self._proto, self._tensor, self._types = summary_pb2, tensor_pb2.TensorProto, types_pb2
        self._texts, self._images, self._histograms = texts, images, histograms
        self.plugins: dict[str, str] = {}

    def value(self, record: ShownMedia) -> Value:
        """Return the summary that shows a record.

        Raises:
            SinkRejected: the content is missing or has changed.
        """
        if isinstance(record, Text):
            value = self._text(record)
        elif isinstance(record, Table):
            value = self._table(record)
        elif isinstance(record, Image):
            value = self._image(record)
        else:
            value = self._histogram(record)
        value.tag = self._tag(record, value.metadata.plugin_data.plugin_name)
        return value

    def _tag(self, record: ShownMedia, plugin: str) -> str:
        is_free = self.plugins.get(record.name, plugin) == plugin
        tag = record.name if is_free else f"{record.name} ({type(record).__name__.lower()})"
        self.plugins[tag] = plugin
        return tag

    def _text(self, record: Text) -> Value:
        return self._markdown(read_text(self._folder, record))

    def _table(self, record: Table) -> Value:
        table = read_table(self._folder, record)
        shown = markdown_table(
            [escape_markdown(name) for name in table.columns],
            [[_cell(value) for value in row] for row in table.rows[:MAX_ROWS]],
        )
        more = len(table.rows) - MAX_ROWS
        return self._markdown(f"{shown}\n\n… and {more} more rows" if more > 0 else shown)

    def _image(self, record: Image) -> Value:
        metadata = self._images.create_summary_metadata(None, escape_markdown(record.caption) or None)
        metadata.data_class = self._proto.DATA_CLASS_BLOB_SEQUENCE
        strings = [str(record.width).encode(), str(record.height).encode(), read_blob(self._folder, record.blob)]
        shape = {"dim": [{"size": len(strings)}]}
        tensor = self._tensor(dtype=self._types.DT_STRING, tensor_shape=shape, string_val=strings)
        return self._proto.Summary.Value(metadata=metadata, tensor=tensor)

    def _histogram(self, record: Histogram) -> Value:
        metadata = self._histograms.create_summary_metadata(None, None)
        metadata.data_class = self._proto.DATA_CLASS_TENSOR
        bins = zip(record.edges[:-1], record.edges[1:], record.counts, strict=True)
        shape = {"dim": [{"size": len(record.counts)}, {"size": 3}]}
        flat = [number for each in bins for number in each]
        tensor = self._tensor(dtype=self._types.DT_DOUBLE, tensor_shape=shape, double_val=flat)
        return self._proto.Summary.Value(metadata=metadata, tensor=tensor)

    def _markdown(self, text: str) -> Value:
        metadata = self._texts.create_summary_metadata(None, None)
        metadata.data_class = self._proto.DATA_CLASS_TENSOR
        tensor = self._tensor(dtype=self._types.DT_STRING, tensor_shape={}, string_val=[text.encode()])
        return self._proto.Summary.Value(metadata=metadata, tensor=tensor)


def _cell(value: Cell) -> str:
    return "" if value is None else str(value)
