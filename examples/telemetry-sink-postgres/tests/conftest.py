"""A PostgreSQL server for all tests; without PostgreSQL they are skipped."""

import pytest
from postgres_server import MISSING, PostgresServer, find_programs


@pytest.fixture(scope="session")
def server():
    if find_programs() is None:
        pytest.skip(MISSING)
    with PostgresServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
