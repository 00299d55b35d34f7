"""Serve the live page on this machine."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.static_handler import StaticHandler
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler

from telemetry.errors import SettingError
from telemetry.view.html import page_template
from telemetry.view.page import Page
from telemetry.view.store import RunStore

ADDRESS = "127.0.0.1"
"""The server accepts connections from this machine only."""
ORIGINS = ("localhost:*", "127.0.0.1:*")
"""Hosts of pages that may open a websocket; any port, since that of an SSH tunnel may differ."""
COMPONENTS = ["bokeh", "bokeh-widgets", "bokeh-tables"]
"""The parts of Bokeh that the page uses."""
UPDATE_INTERVAL = 2.0
"""Interval between reads of the runs, and between updates of the page, in seconds."""


class _TokenRequired(BokehTornado):  # type: ignore[misc] # Bokeh has no complete types
    """Answer requests only below ``/<token>``; all others get status 404, whatever they ask for."""

    def __init__(self, application: Application, token: str, **options: Any) -> None:
        self._token = token.encode()
        super().__init__({"/": application}, prefix=token, **options)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the handler of a request."""
        given = request.path.split("/")[1] if "/" in request.path else ""
        if not hmac.compare_digest(given.encode(), self._token):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 404})
        return super().find_handler(request, **kwargs)

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        """Return the scripts of a page, which come from this server whatever the environment says."""
        del absolute_url
        versioned = StaticHandler.append_version
        return Resources(mode="server", root_url=f"{self.prefix}/", path_versioner=versioned, components=COMPONENTS)


class ViewServer:
    """Serve runs at ``url`` until ``stop`` is called.

    Args:
        store: the runs.
        selected: called for each page; returns the keys of the runs that are selected at first.
        port: the port of 127.0.0.1; 0 for any free one.
        interval: interval between updates, in seconds.

    Raises:
        SettingError: the port cannot be used.
    """

    def __init__(
        self,
        store: RunStore,
        selected: Callable[[], Sequence[str]],
        port: int = 0,
        *,
        interval: float = UPDATE_INTERVAL,
    ) -> None:
        self._store, self._interval = store, interval
        self._stopped = threading.Event()
        listener = _listen(port)
        self.port: int = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.url = f"http://localhost:{self.port}/{token}/"
        template = page_template(own_host=True)

        def show(document: Document) -> None:
            document.template = template
            Page(document, store, selected(), interval)

        self._loop = IOLoop.current()
        application = _TokenRequired(
            Application(FunctionHandler(show)),
            token,
            extra_websocket_origins=list(ORIGINS),
            log_function=lambda _handler: None,
        )
        http = HTTPServer(application)
        http.add_socket(listener)
        self._server = BaseServer(self._loop, application, http)

    def run(self, on_start: Callable[[], None] | None = None) -> None:
        """Serve until ``stop`` is called, or until Ctrl-C in the main thread."""
        refresher = threading.Thread(target=self._refresh, daemon=True)
        refresher.start()
        self._server.start()
        try:
            # Not in the event loop, which would report an exception and continue.
            if on_start is not None:
                on_start()
            with self._stopping_on_interrupt():
                self._loop.start()
        finally:
            self._stopped.set()
            self._server.stop()

    def stop(self) -> None:
        """End ``run``; may be called from any thread."""
        self._loop.add_callback(self._loop.stop)

    @contextlib.contextmanager
    def _stopping_on_interrupt(self) -> Iterator[None]:
        """Make Ctrl-C end the event loop between two callbacks.

        A KeyboardInterrupt while the executor of the loop starts a thread would leave one that nothing ends.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = self._loop
        before = signal.signal(signal.SIGINT, lambda *_: loop.add_callback_from_signal(loop.stop))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _refresh(self) -> None:
        self._store.refresh()
        while not self._stopped.wait(self._interval):
            self._store.refresh()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = "choose another one with --port, or omit it for any free port"
        msg = f"port {port} cannot be used ({error.strerror}); {hint}"
        raise SettingError(msg) from error
    return listener
