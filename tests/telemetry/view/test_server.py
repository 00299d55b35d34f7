"""The server of the live page: who may read it, and how it starts and ends."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

pytest.importorskip("bokeh")

from support.ports import free_port
from support.view_server import serving
from support.written_runs import WrittenRun, add_training
from telemetry.cli import main
from telemetry.cli.view import address_lines, has_desktop
from telemetry.view.server import ViewServer


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    written = WrittenRun(tmp_path / "runs" / "water")
    add_training(written)
    return written


def status_of(server: ViewServer, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def websocket_status(server: ViewServer, origin: str, token: str) -> int:
    """Return the HTTP status of a websocket that a page from ``origin`` opens."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Origin": origin,
        "Sec-WebSocket-Key": "c3RyaW5nIG9mIDE2IGJ5dA==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "bokeh",
    }
    return status_of(server, f"/{token}/ws", **headers)


def test_every_path_needs_the_token(run: WrittenRun) -> None:
    with serving([run.folder]) as server:
        token = urlsplit(server.url).path
        assert len(token) > 30
        assert status_of(server, token) == 200
        assert status_of(server, f"{token}static/js/bokeh.min.js") == 200
        wrong = f"/{'x' * (len(token) - 2)}/"
        for path in (
            "/",
            "/ws",
            "/static/js/bokeh.min.js",
            "/favicon.ico",
            wrong,
            f"{wrong}ws",
            "//",
            token[:-2],
            "/%C3%A9",
        ):
            assert status_of(server, path) == 404, path


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:9999", 101),  # the local end of a tunnel
        ("http://127.0.0.1:9999", 101),
        ("http://example.org", 403),
        ("http://example.org:9999", 403),
        ("http://localhost.example.org:9999", 403),
        ("null", 403),
    ],
)
def test_only_pages_of_this_machine_may_open_a_websocket(run: WrittenRun, origin: str, status: int) -> None:
    with serving([run.folder]) as server:
        token = urlsplit(server.url).path.strip("/")
        assert websocket_status(server, origin, token) == status
        assert websocket_status(server, origin, "x" * len(token)) == 404


def test_the_server_listens_on_this_machine_only(run: WrittenRun) -> None:
    with serving([run.folder]) as server:
        assert set(listeners(server.port)) == {"0100007F"}


def listeners(port: int) -> list[str]:
    """Return the addresses, as the kernel writes them, on which a process listens at a TCP port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == "0A":
                found.append(address)
    return found


def test_a_port_in_use_is_reported_on_one_line(run: WrittenRun) -> None:
    with serving([run.folder]) as server:
        result = CliRunner().invoke(main, ["view", str(run.folder), "--port", str(server.port), "--no-open"])
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: port {server.port} cannot be used (Address already in use); choose another one with --port, "
        "or omit it for any free port\n"
    )


def test_a_missing_folder_is_reported_on_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["view", str(tmp_path / "missing")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr == f"error: no run in {tmp_path / 'missing'}: there is no such folder\n"


@pytest.mark.parametrize("command", [["view"], ["report", "-o", "report.html"]])
def test_without_bokeh_the_missing_extra_is_named(
    run: WrittenRun, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("bokeh", "telemetry.view."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    result = CliRunner().invoke(main, [command[0], str(run.folder), *command[1:]])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: `telemetry {command[0]}` needs a package that is not installed")
    assert result.stderr.endswith("pip install 'aimnet2mult[view]'\n")


def test_the_command_prints_one_address_changes_nothing_and_ends_quietly_on_ctrl_c(run: WrittenRun) -> None:
    before = contents(run.folder)
    port = free_port()
    command = [sys.executable, "-m", "telemetry", "view", str(run.folder.parent), "--port", str(port), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith(f"http://localhost:{port}/")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", urlsplit(address).path)
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert contents(run.folder) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_address_that_cannot_be_printed_ends_the_command(run: WrittenRun) -> None:
    command = [sys.executable, "-m", "telemetry", "view", str(run.folder), "--no-open"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, "error: cannot write the output: No space left on device\n")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_after_an_ssh_login_the_command_for_a_tunnel_is_printed() -> None:
    assert address_lines("http://localhost:5000/t/", 5000, {}) == ["http://localhost:5000/t/"]
    _, tunnel = address_lines("http://localhost:5000/t/", 5000, {"SSH_CONNECTION": "a 1 b 22"})
    assert "ssh -N -L 5000:127.0.0.1:5000 " in tunnel


def test_a_browser_is_opened_only_where_the_user_sees_it() -> None:
    assert has_desktop({"DISPLAY": ":0"})
    assert not has_desktop({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "a 1 b 22"})
    assert not has_desktop({"DISPLAY": ":0", "SLURM_JOB_ID": "7"})
