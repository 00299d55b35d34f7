"""An HTTP proxy in front of an MLflow server, with faults as they occur in networks and servers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    """A request: the endpoint (``what``), for example ``runs/log-batch``, the body, and the Authorization header."""

    what: str
    body: dict[str, Any]
    login: str


class Fault(NamedTuple):
    """A fault that replaces the server's answer.

    Attributes:
        status: the HTTP status of the answer; 0 closes the connection without an answer.
        body: the body of the answer.
        forwarded: whether the request is forwarded to the server first.
        hangs: whether to wait for ``Proxy.release`` first.
    """

    status: int = 0
    body: str = ""
    forwarded: bool = False
    hangs: bool = False


class Proxy:
    """A context manager that runs the proxy.

    Attributes:
        fault: function that returns the fault of a request, or None.
        requests: all requests so far.
    """

    def __init__(self, server: str) -> None:
        self.fault: Callable[[Request], Fault | None] = lambda _: None
        self.requests: list[Request] = []
        self._server = urlsplit(server).netloc
        self._released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def count(self, what: str) -> int:
        """Return the number of requests to an endpoint."""
        return sum(request.what == what for request in self.requests)

    def release(self) -> None:
        """Let hanging requests continue."""
        self._released.set()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(20)

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                what = urlsplit(self.path).path.partition("/mlflow/")[2]
                request = Request(what, json.loads(data or b"{}"), self.headers.get("Authorization") or "")
                proxy.requests.append(request)
                fault = proxy.fault(request)
                if fault is not None and fault.hangs:
                    proxy._released.wait(60)
                if fault is None or fault.forwarded:
                    status, body = self._forward(data)
                if fault is not None:
                    status, body = fault.status, fault.body.encode()
                # HTTP/1.0: each connection ends with its answer, or without one.
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def _forward(self, data: bytes) -> tuple[int, bytes]:
                server = http.client.HTTPConnection(proxy._server, timeout=30)
                headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
                try:
                    server.request(self.command, self.path, data, headers)
                    answer = server.getresponse()
                    return answer.status, answer.read()
                finally:
                    server.close()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
                pass

        return Handler
