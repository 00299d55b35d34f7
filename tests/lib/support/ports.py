"""Ports for servers started by tests."""

import random
import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a free port of 127.0.0.1, which stays free until a server of the test binds it.

    It is below 32768, where the ephemeral ports of Linux start.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
