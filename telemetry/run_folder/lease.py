"""Mutual exclusion without locks, on any file system that has hard links or honours O_EXCL.

A lease is a file ``<name>.lease-<n>``. The process that creates number n + 1 (by ``link`` or with O_EXCL, which only
one can) holds it; it may do so when the holder of n has released it, is dead, or has not renewed it for
``HEARTBEAT_TIMEOUT`` seconds of the taker's own monotonic clock. A holder whose number is no longer the highest has
lost the lease. Numbers are never reused: the highest file stays, so that a slow taker can tell that it is too late.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from telemetry.errors import LeaseHeld
from telemetry.run_folder.atomic_write import read_json, remove_temporary_files, write_json
from telemetry.run_folder.heartbeat import HEARTBEAT_TIMEOUT
from telemetry.run_folder.process_identity import ProcessIdentity, current_process

RENEWAL_INTERVAL = 10.0
"""Seconds between two renewals."""
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK}


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a lease file."""

    who: ProcessIdentity
    beat: int
    released: bool = False


_decoder = msgspec.json.Decoder(Holder)


class Lease:
    """The right to do what ``name`` says; its files lie in ``folder``."""

    def __init__(self, folder: Path, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._name = name
        self._clock = clock
        self._me = current_process()
        self._number = 0
        self._beat = 0
        self._watched: tuple[int, int] | None = None
        self._since = clock()

    def holder(self) -> ProcessIdentity | None:
        """Give who holds the lease now, None if nobody is known to."""
        found = self._read(max(self._numbers(), default=0))
        return None if found is None or found.released or found.who.is_dead() else found.who

    def try_acquire(self) -> bool:
        """Take the lease if it is free, or has been seen standing still for long enough by this object.

        Raises:
            OSError: the lease file cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        numbers = self._numbers()
        highest = max(numbers, default=0)
        if highest and not self._is_free(highest):
            return False
        mine = highest + 1
        if not self._make(mine):
            return False
        if max(self._numbers(), default=mine) > mine:
            # Others came and went since the look at the folder, and took the file of this number with them.
            self._path(mine).unlink(missing_ok=True)
            return False
        self._number = mine
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
            remove_temporary_files(self._path(number))
        remove_temporary_files(self._path(mine))
        return True

    def acquire(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the lease, watching a holder that cannot be seen for as long as it takes to tell if it lives.

        Raises:
            LeaseHeld: somebody who lives holds it.
            OSError: the lease file cannot be written.
        """
        first: tuple[int, int] | None = None
        while not self.try_acquire():
            holder = self.holder()
            if holder is not None and (holder.is_local() or first not in {None, self._watched}):
                msg = f"{holder} delivers this run to {self._name!r} now; wait for it, or end it"
                raise LeaseHeld(msg)
            first = first or self._watched
            sleep(1.0)

    def renew(self) -> bool:
        """Show that the holder lives; False if the lease has been lost.

        Raises:
            OSError: the lease file cannot be written.
        """
        if not self.is_held():
            return False
        self._beat += 1
        write_json(self._path(self._number), Holder(who=self._me, beat=self._beat))
        return True

    def is_held(self) -> bool:
        """Say whether nobody else has taken the lease."""
        return self._number > 0 and max(self._numbers(), default=self._number) == self._number

    def release(self) -> None:
        """Give the lease back; without effect if it has been lost."""
        if self.is_held():
            try:
                write_json(self._path(self._number), Holder(who=self._me, beat=self._beat + 1, released=True))
            except OSError:
                # Nobody can be told. The next taker finds this process dead, or watches it stand still.
                return
            finally:
                self._number = 0

    def _is_free(self, number: int) -> bool:
        found = self._read(number)
        if found is not None and (found.released or found.who.is_dead()):
            return True
        seen = (number, -1 if found is None else found.beat)
        if seen != self._watched:
            self._watched, self._since = seen, self._clock()
        return self._clock() - self._since >= HEARTBEAT_TIMEOUT

    def _make(self, number: int) -> bool:
        # Under its name only when it says who: of one who dies between the two nobody could tell that he is dead.
        draft = self._folder / f".{self._name}.lease-{number}.{os.urandom(8).hex()}.tmp"
        try:
            _create(draft, msgspec.json.encode(Holder(who=self._me, beat=0)) + b"\n")
            return _link(draft, self._path(number))
        finally:
            draft.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        prefix = f"{self._name}.lease-"
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        tails = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [int(tail) for tail in tails if tail.isascii() and tail.isdigit()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.lease-{number}"

    def _read(self, number: int) -> Holder | None:
        return read_json(self._path(number), _decoder)


def _create(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _link(draft: Path, path: Path) -> bool:
    """Give a file its name unless somebody has it already; say whether it was given."""
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            # Over NFS a request may be sent again that was answered with success.
            return draft.stat().st_nlink > 1
    except FileNotFoundError:
        # Somebody else holds it by now, and has cleared away what others left.
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            _create(path, draft.read_bytes())
        except FileExistsError:
            return False
    return True
