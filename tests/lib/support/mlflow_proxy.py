"""An HTTP proxy before an MLflow server that spoils some requests, in ways in which networks and servers do."""

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
    """What was asked: the end point, as ``runs/log-batch``, the body, and the login that came with it."""

    what: str
    body: dict[str, Any]
    login: str


class Fault(NamedTuple):
    """What is done instead of a plain answer.

    Attributes:
        status: answered without asking the server; 0: nothing is answered, and the connection is cut.
        body: the answer's body.
        taken: the server is asked before.
        hangs: nothing happens before ``Proxy.release``.
    """

    status: int = 0
    body: str = ""
    taken: bool = False
    hangs: bool = False


class Proxy:
    """Stands before a server.

    Attributes:
        fault: gives the fault for a request, or None.
        requests: all that were asked.
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
        """Give how often an end point was asked."""
        return sum(request.what == what for request in self.requests)

    def release(self) -> None:
        """Let what hangs end."""
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

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler's self is another
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
                if fault is None or fault.taken:
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

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
                pass

        return Handler
