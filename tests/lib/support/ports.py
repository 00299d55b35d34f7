"""Ports for servers that a test starts."""

import random
import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and stays so until a server of the test takes it.

    It is below those that Linux gives to whoever asks for any, or connects: from 32768 on.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
