"""A W&B server on 127.0.0.1 with the GraphQL and file-stream requests that wandb uses, and injectable faults."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

ENTITY = "chemists"
KEY = "0123456789" * 4
HISTORY = "wandb-history.jsonl"
_ARTIFACT = {
    "__typename": "Artifact",
    "id": "a",
    "state": "COMMITTED",
    "artifactSequence": {
        "__typename": "ArtifactSequence",
        "id": "s",
        "name": "weights",
        "latestArtifact": None,
        "project": {"id": "p", "internalId": "1", "name": "p", "entity": {"name": ENTITY}},
    },
    "artifactType": {"name": "model"},
    "versionIndex": 0,
    "description": None,
    "metadata": "{}",
    "ttlDurationSeconds": 0,
    "ttlIsInherited": False,
    "tags": [],
    "historyStep": None,
    "size": 1,
    "digest": "d",
    "commitHash": None,
    "fileCount": 1,
    "createdAt": "2026-01-01T00:00:00",
    "updatedAt": None,
}
"""The answer for every artifact, as if the server had this version already, so that nothing is uploaded."""


@dataclass
class Run:
    """A run stored by the server."""

    name: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[int, str]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history rows, in order."""
        lines = self.files.get(HISTORY, {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        lines = self.files.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}


@dataclass
class Sweep:
    """A sweep: its configuration as YAML, its project, and the parameters of the runs not started yet, by run ID."""

    config: str
    project: str
    waiting: dict[str, dict[str, Any]]


@dataclass
class Fault:
    """A fault of the next ``times`` requests whose path contains ``path``.

    ``how`` is an HTTP status, or ``hang``, ``cut`` (no answer), ``lost`` (processed, but no answer), or ``slow``
    (answered after ``seconds``).
    """

    how: int | str
    path: str = "/"
    times: int = 1 << 30
    seconds: float = 0.0


class WandbServer:
    """A context manager that runs the server; ``url`` is the value for WANDB_BASE_URL."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.alerts: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self._fault: Fault | None = None
        server = self

        class Handler(_Handler):
            state = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def clear(self) -> None:
        """Remove all runs, alerts and logged requests."""
        with self.lock:
            self.runs.clear()
            self.sweeps.clear()
            self.alerts.clear()
            self.log.clear()

    def fail(self, fault: Fault | None) -> None:
        """Set the fault of the following requests; None for no fault."""
        with self.lock:
            self._fault = fault

    def fault_of(self, path: str) -> Fault | None:
        """Return the fault of a request, and count it."""
        with self.lock:
            fault = self._fault
            if fault is None or fault.path not in path or fault.times < 1:
                return None
            fault.times -= 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def log_message(self, *_: object) -> None:
        """Suppress the log on standard error."""

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._body()
        self._reply({})

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self._body()
        fault = self.state.fault_of(self.path)
        if fault is not None and fault.how == "slow":
            self.state.ended.wait(fault.seconds)
            fault = None
        if fault is not None and fault.how != "lost":
            self._fail(fault)
            return
        with self.state.lock:
            self.state.log.append(self.path)
            answer = self._answer(json.loads(body or b"{}"))
        if fault is not None:
            self.close_connection = True
            return
        self._reply(answer)

    def _fail(self, fault: Fault) -> None:
        if fault.how == "hang":
            self.state.ended.wait(60)
        if isinstance(fault.how, int):
            self._reply({"error": "as you wish"}, fault.how)
        else:
            self.close_connection = True

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.path == "/graphql":
            return {"data": self._graphql(body.get("query", ""), body.get("variables") or {})}
        stream = re.fullmatch(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", self.path)
        if stream:
            self._stream(self.state.runs[stream[1], stream[2]], body)
            return {"exitcode": None, "limits": {}}
        return {}

    @staticmethod
    def _stream(run: Run, body: dict[str, Any]) -> None:
        for name, content in (body.get("files") or {}).items():
            lines = run.files.setdefault(name, {})
            lines.update({content["offset"] + i: line for i, line in enumerate(content["content"])})
        if body.get("complete") is not None or "exitcode" in body:
            run.exit_code = body.get("exitcode")

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else ""
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "UpsertBucket": self._upsert,
            "RunResumeStatus": self._resume_status,
            "NotifyScriptableRunAlert": self._alert,
            "SweepWithRuns": self._sweep,
            "CreateAgent": lambda variables: {"createAgent": {"agent": {"id": variables["sweep"]}}},
            "Heartbeat": self._heartbeat,
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "ArtifactByID": lambda _: {"artifact": _ARTIFACT},
            "CreateArtifact": lambda _: {"createArtifact": {"artifact": _ARTIFACT}},
        }
        if operation in answers:
            return answers[operation](variables)
        if operation == "CreateRunFiles":
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}}
        if operation == "RunStoppedStatus":
            return {"project": {"run": {"stopped": False}}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer | {"email": "a@b", "admin": False, "name": ENTITY, "apiKeys": {"edges": []}}}
        versions = {"max_cli_version": "0.99.0"}
        return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}}

    def _alert(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.state.alerts.append(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        config = self.state.sweeps[variables["sweep"]].config
        return {"project": {"sweep": {"id": "s", "name": variables["sweep"], "config": config, "runs": {"edges": []}}}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Start the next run of the sweep, or end the agent, once its run has ended."""
        sweep = self.state.sweeps[variables["id"]]
        commands: list[dict[str, Any]] = []
        if variables["runState"] == "{}" and sweep.waiting:
            run_id = next(iter(sweep.waiting))
            values = {name: {"value": value} for name, value in sweep.waiting.pop(run_id).items()}
            # The server itself creates the run.
            self.state.runs[sweep.project, run_id] = Run(run_id, sweep.project, config=values)
            commands = [{"type": "run", "run_id": run_id, "program": "program", "args": values}]
        elif variables["runState"] == "{}":
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name, project = variables.get("name") or variables["id"], variables.get("project") or "uncategorized"
        inserted = (project, name) not in self.state.runs
        run = self.state.runs.setdefault((project, name), Run(name, project))
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        run.fields.update({key: value for key, value in variables.items() if value is not None})
        bucket = self._bucket(run) | {
            "id": base64.b64encode(name.encode()).decode(),
            "description": None,
            "sweepName": None,
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"entity": ENTITY}
        run = self.state.runs.get((variables["project"], variables["name"]))
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}}
        if run is None:
            known = any(name == variables["project"] for name, _ in self.state.runs)
            return {"viewer": viewer, "model": project | {"bucket": None} if known else None}
        return {"viewer": viewer, "model": project | {"bucket": self._bucket(run)}}

    @staticmethod
    def _bucket(run: Run) -> dict[str, Any]:
        lines = run.files.get(HISTORY, {})
        return {
            "id": "x",
            "name": run.name,
            "displayName": run.fields.get("displayName") or run.name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([lines[max(lines)]] if lines else []),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _body(self) -> bytes:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
