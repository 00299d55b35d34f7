"""Where a backend's exceptions become telemetry's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from telemetry import SinkRejected, SinkUnavailable, TelemetryError


@contextmanager
def backend_errors(backend: str) -> Iterator[None]:
    """Raise what passes through as an error of telemetry's.

    Raises:
        SinkRejected: the backend's package cannot be imported, which trying again does not change.
        SinkUnavailable: for anything else, of the backend or of the file system.
    """
    try:
        yield
    except TelemetryError:
        raise
    except ImportError as error:
        msg = f"{backend} cannot be imported: {error}"
        raise SinkRejected(msg) from error
    except Exception as error:
        msg = f"{backend}: {type(error).__name__}: {error}"
        raise SinkUnavailable(msg) from error
