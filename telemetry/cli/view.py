"""``telemetry view``: show the curves of runs in a web browser, live."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from telemetry.cli.console import PATH, exits_with_message, print_line
from telemetry.plugins.optional_imports import optional_import
from telemetry.reading.find_run import RUNS, find_run
from telemetry.view.store import RunStore


@click.command()
@click.argument("paths", nargs=-1, metavar="[RUN|FOLDER]...", type=PATH)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Port of 127.0.0.1; by default any free one."
)
@click.option("--open/--no-open", "opens", default=None, help="Whether to open a browser; by default, on a desktop.")
@exits_with_message
def view(paths: tuple[Path, ...], port: int, opens: bool | None) -> None:
    """Show the curves, images, tables and texts of runs in a web browser, live.

    RUN is a run folder, or the ID or name of a run in ./runs. FOLDER contains run folders (default: runs). New runs in
    FOLDER appear by themselves. The page is served on this machine only, and everybody who knows its address, which
    contains a random token, can read it. Nothing is written to the run folders. Ctrl-C ends the server.
    """
    with optional_import("`telemetry view`", "'aimnet2mult[view]'"):
        from telemetry.view.quiet import silence_bokeh
        from telemetry.view.server import ViewServer

    silence_bokeh()
    folders = [path if path.is_dir() else find_run(path) for path in paths] or [RUNS]
    store = RunStore(folders)
    server = ViewServer(store, lambda: first_selected(store, folders), port)

    def announce() -> None:
        for line in address_lines(server.url, server.port, os.environ):
            print_line(line)
        if opens or (opens is None and has_desktop(os.environ)):
            webbrowser.open(server.url)

    with contextlib.suppress(KeyboardInterrupt):
        server.run(announce)


def first_selected(store: RunStore, folders: Sequence[Path]) -> list[str]:
    """Return the keys of the runs that are selected at first: those given one by one, or else the newest."""
    runs = store.runs()
    given = [run.key for run in runs if run.folder in folders]
    return given or [run.key for run in runs[:1]]


def address_lines(url: str, port: int, environment: Mapping[str, str]) -> list[str]:
    """Return the address, after an SSH login also the command that makes it reachable from the machine of the user."""
    if "SSH_CONNECTION" not in environment:
        return [url]
    target = f"{getpass.getuser()}@{socket.getfqdn()}"
    return [url, f"on your own machine, first run: ssh -N -L {port}:127.0.0.1:{port} {target}"]


def has_desktop(environment: Mapping[str, str]) -> bool:
    """Return whether a browser can be opened where the user sees it: on a desktop, not after an SSH login."""
    on_cluster = any(name in environment for name in ("SSH_CONNECTION", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"))
    return not on_cluster and (sys.platform == "darwin" or "DISPLAY" in environment or "WAYLAND_DISPLAY" in environment)
