"""The methods of a bus that record something other than numbers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from telemetry.recording.media_content import (
    Encoded,
    encode_artifact,
    encode_histogram,
    encode_table,
    encode_text,
)
from telemetry.recording.png import encode_image


class MediaMethods:
    """Record texts, tables, images, histograms and artifacts, at any iteration: the cadence does not apply.

    ``name`` is a full name, such as ``val/parity/E``, and ``step`` the global iteration. The content is encoded and
    written in a thread of telemetry. It may also be a callable that returns it, called in that thread, which spares the
    training thread the copy. Invalid content is counted in ``counts().dropped`` and reported once, as is what exceeds
    the setting ``telemetry.blobs_mb``.
    """

    def text(self, name: str, step: int, text: str | Callable[[], str]) -> None:
        """Record a text in Markdown; credentials in it are removed."""
        self._offer_media(name, step, text, encode_text)

    def table(
        self,
        name: str,
        step: int,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]] | Callable[[], Iterable[Sequence[object]]],
    ) -> None:
        """Record a table; credentials in its texts are removed.

        Args:
            name: the full name.
            step: the global iteration.
            columns: the names of the columns.
            rows: the rows, as long as ``columns``; each value is a text, a number, a Boolean or None, and anything else
                is recorded as its ``str``.
        """
        self._offer_media(name, step, rows, functools.partial(encode_table, columns))

    def image(self, name: str, step: int, content: object, caption: str = "") -> None:
        """Record an image.

        Args:
            name: the full name.
            step: the global iteration.
            content: the bytes of a PNG file; an array or tensor of shape (height, width), (height, width, 3) or
                (height, width, 4), of 8-bit integers or of numbers from 0 to 1; a matplotlib figure; or a callable that
                returns one of them. A figure is drawn in this thread, because matplotlib is not thread-safe; a figure
                that a callable returns is drawn in the thread of telemetry.
            caption: what the image shows; truncated to 250 characters.
        """
        self._offer_media(name, step, content, functools.partial(encode_image, caption))

    def histogram(
        self,
        name: str,
        step: int,
        values: object = None,
        *,
        edges: Sequence[float] | None = None,
        counts: Sequence[float] | None = None,
    ) -> None:
        """Record a histogram, of values or of given bins.

        If a metric of this name is declared, its unit applies to the values and edges.

        Args:
            name: the full name.
            step: the global iteration.
            values: an array, tensor or sequence of any shape, in 64 bins between its extremes; NaN and infinities are
                left out, and counted. Or a callable that returns it.
            edges: the edges of up to 512 bins, ascending, instead of ``values``.
            counts: the number of values in each bin, one less than ``edges``.
        """
        content: Any = values if edges is None and counts is None else (edges, counts)
        self._offer_media(name, step, content, functools.partial(encode_histogram, given=values is None))

    def artifact(self, name: str, step: int, path: str | os.PathLike[str], type: str = "file") -> None:  # noqa: A002
        """Record a file, such as the weights of a model, by a copy in the run folder.

        Args:
            name: the full name.
            step: the global iteration.
            path: the file; a change before the copy is complete (see ``flush``) may make it invalid.
            type: what it is: ``model``, ``dataset`` …; truncated to 250 characters.
        """
        self._offer_media(name, step, path, functools.partial(encode_artifact, type))

    def _offer_media(self, name: str, step: int, content: object, encode: Callable[[Any], Encoded]) -> None:
        """Record the content that ``encode`` encodes."""
        raise NotImplementedError
