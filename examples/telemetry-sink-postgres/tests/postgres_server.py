"""A PostgreSQL server for tests in a temporary folder, which can be stopped as by a power cut and started again."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

MISSING = "PostgreSQL is not installed: `apt-get install postgresql`, or add the folder of its initdb to PATH"


def find_programs():
    """Return the folder of initdb and pg_ctl, which Debian does not add to PATH; None if there is none."""
    on_path = shutil.which("initdb")
    found = [on_path] if on_path else sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    return Path(found[-1]).resolve().parent if found else None


class PostgresServer:
    """A context manager that runs a server with the user ``postgres``, which needs no password.

    PostgreSQL refuses to run as root; then it runs as another user.

    Attributes:
        environment: the variables with which libpq finds the server.
    """

    def __init__(self):
        self._programs = find_programs()
        assert self._programs, MISSING
        self._owner = None if os.getuid() else pwd.getpwnam("nobody")
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # the path of a socket must be short
        self.environment = {"PGHOST": str(self._folder), "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def start(self):
        """Start the server and wait until it accepts connections; it first recovers if necessary."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._folder / 'log'}", f"--options={options}")

    def stop(self, mode="immediate"):
        """Stop the server; in the mode ``immediate``, without writing anything more, as by a power cut."""
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def __enter__(self):
        if self._owner:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        self._run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program, *arguments):
        owner = {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []} if self._owner else {}
        command = [self._programs / program, f"--pgdata={self._folder / 'data'}", *arguments]
        # A file, because the server would keep a pipe open.
        with (self._folder / "output").open("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self._folder, check=False, **owner)
            output.seek(0)
            assert done.returncode == 0, output.read()
