"""Take the screenshots in docs/explanation/viewers.md: the same runs in each viewer, in a headless browser.

python tools/screenshots.py RUNS OUT                       # RUNS contains the run folders; the first one is shown alone
python tools/screenshots.py RUNS OUT --trackio PYTHON      # also trackio, installed in the environment of PYTHON

The runs are copied before they are delivered. Requires the extra `all`, playwright and an installed Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

SIZE = {"width": 1600, "height": 1000}
START_TIMEOUT = 90.0
"""Maximum time, in seconds, until a server answers."""
DRAWING_TIME = 8.0
"""Time, in seconds, that a page is given to draw its charts after its last request."""
COMMANDS = Path(sys.executable).parent
# Suggested commands contain the full path of programs that are not on the path.
ENVIRONMENT = os.environ | {"PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
TRACKIO = """
import json, sys
from collections import defaultdict
import trackio

for name in sys.argv[1:]:
    points = defaultdict(dict)
    for row in map(json.loads, open(f"{name}.jsonl")):
        points[row["step"]][row["name"]] = row["value"]
    trackio.init(project="sample", name=name)
    for step in sorted(points):
        trackio.log(points[step], step=step)
    trackio.finish()
trackio.show(project="sample", open_browser=False, block_thread=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trackio", type=Path)
    arguments = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = Path(folder) / "runs"
        shutil.copytree(arguments.runs, runs)
        names = sorted(path.name for path in runs.iterdir() if (path / "journal-0.jsonl").exists())
        for name in names:
            _run("telemetry", "sync", name, "--telemetry-sinks", "tensorboard,mlflow", folder=runs)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        arguments.out.mkdir(parents=True, exist_ok=True)
        shots = Screenshots(browser, runs, names, arguments.out)
        shots.tensorboard()
        shots.mlflow()
        shots.live_page()
        if arguments.trackio:
            shots.trackio(arguments.trackio)
        browser.close()


class Screenshots:
    """The screenshots of each viewer."""

    def __init__(self, browser: Browser, runs: Path, names: list[str], out: Path) -> None:
        self._browser = browser
        self._runs = runs
        self._names = names
        self._out = out

    def tensorboard(self) -> None:
        for name, folder, url in (
            (
                "tensorboard-1-run",
                self._runs / self._names[0] / "tensorboard",
                "/?smoothing=0&runFilter=%5Cw#timeseries",
            ),
            ("tensorboard-runs", self._runs, "/?smoothing=0&runFilter=/val$"),
        ):
            port = _free_port()
            command = [COMMANDS / "tensorboard", "--logdir", folder, "--port", str(port), "--host", "127.0.0.1"]
            with _server(command, f"http://127.0.0.1:{port}/", self._runs):
                self._shoot(name, f"http://127.0.0.1:{port}{url}")

    def mlflow(self) -> None:
        port = _free_port()
        store = f"sqlite:///{self._runs / 'mlflow.db'}"
        command = [COMMANDS / "mlflow", "ui", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
        with _server(command, f"http://127.0.0.1:{port}/health", self._runs):
            experiment, run = _mlflow_ids(store)
            url = f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs"
            self._shoot("mlflow-1-run", f"{url}/{run}/model-metrics?workflowType=machine_learning")
            self._shoot("mlflow-runs", f"{url}?workflowType=machine_learning&compareRunsMode=CHART")

    def live_page(self) -> None:
        for name, arguments in (("view-1-run", self._names[:1]), ("view-runs", self._names)):
            log = self._runs / f"{name}.log"
            with _server([COMMANDS / "telemetry", "view", *arguments], "", self._runs, log) as url:
                self._shoot(name, url)

    def trackio(self, python: Path) -> None:
        for name in self._names:
            _run("telemetry", "export", name, "--format", "jsonl", "-o", f"{name}.jsonl", folder=self._runs)
        port = _free_port()
        environment = {
            "TRACKIO_DIR": str(self._runs.parent / "trackio"),
            "HF_HOME": str(self._runs.parent / "hf"),
            "HF_HUB_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_SERVER_PORT": str(port),
        }
        command = [python, "-c", TRACKIO, *self._names]
        log = self._runs / "trackio.log"
        with _server(command, "", self._runs, log, environment) as url:
            self._shoot("trackio-runs", url)

    def _shoot(self, name: str, url: str) -> None:
        page = self._browser.new_page(viewport=SIZE)
        hosts: set[str | None] = set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        page.wait_for_timeout(DRAWING_TIME * 1000)
        image = Image.open(io.BytesIO(page.screenshot()))
        # Screenshots have few colors; a palette makes the file several times smaller.
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(self._out / f"{name}.png", optimize=True)
        page.close()
        print(self._out / f"{name}.png; requests to", ", ".join(sorted(filter(None, hosts))))


@contextlib.contextmanager
def _server(
    command: list[str | Path],
    url: str,
    folder: Path,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[str]:
    """Run a server until it is no longer needed; yield ``url``, or the first URL that it prints."""
    log = log or folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=file,
            env=ENVIRONMENT | (environment or {}),
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and process.poll() is None:
            found = url or next(iter(re.findall(r"http://[\w.:]+[^\s\x1b]*", log.read_text())), "")
            if found and (not url or _answers(found)):
                yield found
                return
            time.sleep(0.5)
        sys.exit(f"{command[0]} did not start:\n{log.read_text()}")
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - an address of this machine
            return True
    except (urllib.error.URLError, OSError):
        return False


def _mlflow_ids(store: str) -> tuple[str, str]:
    """Return the IDs of the experiment and of its oldest run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    run, *_ = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return experiment.experiment_id, run.info.run_id


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(command: str, *arguments: str, folder: Path) -> None:
    subprocess.run([COMMANDS / command, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


if __name__ == "__main__":
    main()
