"""Loopback ports for servers. They are taken from below the range that kernels hand to outgoing connections, so that
nobody's outgoing connection sits on the port of a server that is down for a moment."""

import random
import socket
from collections.abc import Collection

from deploy.local.errors import StackError

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
    """`count` free ports: the preferred ones, in their order, when there are that many and all are free."""
    if len(preferred) == count and all(is_free(port) for port in preferred):
        return list(preferred)
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise StackError("No loopback port is free.", "Stop some of the servers on this machine.")
