"""Loopback ports for servers, below the range that kernels use for outgoing connections, so that no such connection can
take the port of a server while it restarts."""

import random
import socket
from collections.abc import Collection

from shared.runtime.user_errors import UserError

_RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, preferred: Collection[int] = ()) -> list[int]:
    """`count` free ports: the preferred ones, in their order, if their number is `count` and all are free."""
    if len(preferred) == count and all(is_free(port) for port in preferred):
        return list(preferred)
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise UserError("No loopback port is free.", "Stop some of the servers on this machine.")
