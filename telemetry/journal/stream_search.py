"""Pass over the points of other streams without decoding them."""

from __future__ import annotations

import re
from collections.abc import Collection

from telemetry.journal.codec import decode, stream_mark
from telemetry.records import MAX_STEP, Scalars


class PassedScalars(Scalars, frozen=True, kw_only=True, gc=False, tag="scalars"):
    """The last of several points of other streams; the ``passed`` points before it were not decoded.

    Their sequence numbers are those before its own, and their iterations are not later than its own.
    """

    passed: int


class StreamSearch:
    """Search for the lines that may matter to somebody who needs only some streams.

    Only the beginnings of the lines passed over are read. They may be damaged, but none is missing: their number is
    that of the sequence numbers between the points on either side.
    """

    def __init__(self, streams: Collection[str]) -> None:
        """Prepare to search for the points of some streams, and for all records that are not points."""
        # The encoder writes a line in exactly one way; any other line is decoded.
        wanted = b"|".join(re.escape(stream_mark(stream)) for stream in streams) or b"(?!)"
        other = rb'\{"kind":"scalars","seq":\d+,"time":\d+,(?!' + wanted + rb')"stream":'
        self._before_wanted = re.compile(rb"\n(?!" + other + rb")")

    def passed(
        self, before: Scalars, data: bytes, newline: int, max_step: int = MAX_STEP
    ) -> tuple[PassedScalars | None, int]:
        """Pass over complete lines of other streams.

        Args:
            before: the point before them.
            data: a part of a segment.
            newline: where the line of ``before`` ends in ``data``.
            max_step: the last valid iteration; superseded points are not passed over, so that they can be counted.

        Returns:
            The last of the points and where its line ends; None instead of the point if the lines must be decoded.
        """
        found = self._before_wanted.search(data, newline)
        end = data.rfind(b"\n") if found is None else found.start()
        if end == newline:
            return None, end
        count = data.count(b"\n", newline + 1, end + 1)
        last = decode(data[data.rfind(b"\n", newline, end) + 1 : end + 1])
        if not isinstance(last, Scalars) or last.seq - before.seq != count or last.step > max_step:
            return None, end
        point = PassedScalars(
            seq=last.seq, time=last.time, stream=last.stream, step=last.step, values=last.values, passed=count - 1
        )
        return point, end
