"""Mutual exclusion without locks, on any file system that supports hard links or O_EXCL.

A lease is a file ``<name>.lease-<n>``. The process that creates number n + 1 holds it; creation by ``link`` or with
O_EXCL succeeds in one process only. A process may create it when the holder of n has released it, is dead, or has not
renewed it for ``HEARTBEAT_TIMEOUT`` seconds on the observing process's monotonic clock. A holder whose number is no
longer the highest has lost the lease. Numbers are never reused: the file with the highest number is kept, so that a
slow process can detect that it has lost the lease.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from telemetry.errors import LeaseHeld
from telemetry.run_folder.atomic_write import private_opener, read_json, remove_temporary_files, write_json
from telemetry.run_folder.heartbeat import HEARTBEAT_TIMEOUT
from telemetry.run_folder.permissions import make_folder
from telemetry.run_folder.process_identity import ProcessIdentity, current_process

RENEWAL_INTERVAL = 10.0
"""Interval between renewals, in seconds."""
_POLL_INTERVAL = 1.0
"""Interval between attempts to acquire the lease, in seconds."""
_LINKS_UNSUPPORTED = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK}


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a lease file: the holder, the number of renewals, and whether it has released the lease."""

    who: ProcessIdentity
    beat: int
    released: bool = False


_decoder = msgspec.json.Decoder(Holder)


class Lease:
    """The exclusive right of a process to perform a task, such as delivery to a sink."""

    def __init__(self, folder: Path, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an object that does not hold the lease yet.

        Args:
            folder: the folder of the lease files.
            name: name of the task.
            clock: monotonic clock in seconds.
        """
        self._folder = folder
        self._name = name
        self._clock = clock
        self._identity = current_process()
        self._number = 0
        self._beat = 0
        self._observed: tuple[int, int] | None = None
        self._unchanged_since = clock()

    def holder(self) -> ProcessIdentity | None:
        """Return the process that holds the lease; None if there is none, or if it is dead or cannot be read."""
        try:
            found = self._read(max(self._numbers(), default=0))
        except OSError:
            return None
        return None if found is None or found.released or found.who.is_dead() else found.who

    def try_acquire(self) -> bool:
        """Acquire the lease if it is free, or if this object has seen no renewal for ``HEARTBEAT_TIMEOUT`` seconds.

        Raises:
            OSError: the lease file cannot be written.
        """
        if not self._folder.is_dir():
            make_folder(self._folder)
        numbers = self._numbers()
        highest = max(numbers, default=0)
        if highest and not self._is_free(highest):
            return False
        mine = highest + 1
        if not self._create_file(mine):
            return False
        if max(self._numbers(), default=mine) > mine:
            # Other processes have acquired and released the lease since the folder was listed, and removed the file
            # with this number.
            self._path(mine).unlink(missing_ok=True)
            return False
        self._number = mine
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
            remove_temporary_files(self._path(number))
        remove_temporary_files(self._path(mine))
        return True

    def acquire(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Acquire the lease; if its holder is on another machine, wait until it is renewed or expires.

        Raises:
            LeaseHeld: a process that is alive holds the lease.
            OSError: the lease file cannot be written.
        """
        first_observed: tuple[int, int] | None = None
        while not self.try_acquire():
            holder = self.holder()
            if holder is not None and (holder.is_local() or first_observed not in {None, self._observed}):
                msg = f"{holder} is already delivering this run to {self._name!r}; wait until it is done, or stop it"
                raise LeaseHeld(msg)
            first_observed = first_observed or self._observed
            sleep(_POLL_INTERVAL)

    def renew(self) -> bool:
        """Renew the lease; return False if it has been lost.

        Raises:
            OSError: the lease file cannot be written.
        """
        if not self.is_held():
            return False
        self._beat += 1
        # Not synced: after a power cut the holder is dead, and its lease expires.
        write_json(self._path(self._number), Holder(who=self._identity, beat=self._beat), sync=False)
        return True

    def is_held(self) -> bool:
        """Return whether this object has acquired the lease, and has neither released nor lost it since."""
        return self._number > 0 and max(self._numbers(), default=self._number) == self._number

    def release(self) -> None:
        """Release the lease; does nothing if it has been lost."""
        if self.is_held():
            try:
                holder = Holder(who=self._identity, beat=self._beat + 1, released=True)
                write_json(self._path(self._number), holder, sync=False)
            except OSError:
                # The next process can acquire the lease once this one is dead or the lease has expired.
                return
            finally:
                self._number = 0

    def _is_free(self, number: int) -> bool:
        found = self._read(number)
        if found is not None and (found.released or found.who.is_dead()):
            return True
        observed = (number, -1 if found is None else found.beat)
        if observed != self._observed:
            self._observed, self._unchanged_since = observed, self._clock()
        return self._clock() - self._unchanged_since >= HEARTBEAT_TIMEOUT

    def _create_file(self, number: int) -> bool:
        # Publish the file only once it names its holder; otherwise others could not check whether the holder is alive.
        temporary = self._folder / f".{self._name}.lease-{number}.{os.urandom(8).hex()}.tmp"
        try:
            _create(temporary, msgspec.json.encode(Holder(who=self._identity, beat=0)) + b"\n")
            return _link(temporary, self._path(number))
        finally:
            temporary.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        prefix = f"{self._name}.lease-"
        try:
            names = os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        tails = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [int(tail) for tail in tails if tail.isascii() and tail.isdigit()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.lease-{number}"

    def _read(self, number: int) -> Holder | None:
        return read_json(self._path(number), _decoder)


def _create(path: Path, data: bytes) -> None:
    with open(path, "xb", opener=private_opener) as file:
        file.write(data)


def _link(temporary: Path, path: Path) -> bool:
    """Link a file to its final name; return False if another process has taken that name."""
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # NFS may retransmit a request that has already succeeded.
            return temporary.stat().st_nlink > 1
    except FileNotFoundError:
        # Another process has acquired the lease and removed the temporary files of others.
        return False
    except OSError as error:
        if error.errno not in _LINKS_UNSUPPORTED:
            raise
        try:
            _create(path, temporary.read_bytes())
        except FileExistsError:
            return False
    return True
