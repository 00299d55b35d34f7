"""The server of the live page, run in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

from telemetry.view.server import ViewServer
from telemetry.view.store import RunStore


@contextmanager
def serving(paths: Sequence[Path], *, select: Sequence[Path] = ()) -> Iterator[ViewServer]:
    """Serve runs until the block ends; updates follow every 0.2 s.

    Args:
        paths: run folders, or folders of runs.
        select: the runs that are selected at first; by default all.
    """
    started: Queue[ViewServer] = Queue()
    thread = threading.Thread(target=_serve, args=(paths, select, started))
    thread.start()
    server = started.get(timeout=20)
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=20)


def _serve(paths: Sequence[Path], select: Sequence[Path], started: Queue[ViewServer]) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    store = RunStore(paths)

    def selected() -> list[str]:
        return [entry.key for entry in store.runs() if not select or entry.folder in select]

    server = ViewServer(store, selected, interval=0.2)
    server.run(on_start=lambda: started.put(server))
