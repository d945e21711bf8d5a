"""A probe of a Kafka broker on a plain socket, for the brokers that accept work. A broker responds only after it has
joined its cluster, which an open port does not show. Metadata request, version 1: https://kafka.apache.org/protocol."""

import io
import os
import socket
import struct

_PROBE_SECONDS = 3.0
_METADATA, _VERSION, _CORRELATION = 3, 1, 7
_CLIENT = b"piepowder"


def ask_brokers(host: str, port: int, *, timeout: float = 1.0) -> dict[int, int]:
    """Node id → port of the brokers that accept work. Raises `OSError` without a response of Kafka's protocol."""
    request = struct.pack(f">hhih{len(_CLIENT)}si", _METADATA, _VERSION, _CORRELATION, len(_CLIENT), _CLIENT, 0)
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _read(connection, 4))
        if not 8 <= size <= 2**20:
            raise OSError("not a response of Kafka")
        response = io.BytesIO(_read(connection, size))
    try:
        if _int32(response) != _CORRELATION:
            raise OSError("not a response of Kafka")
        brokers: dict[int, int] = {}
        for _ in range(_int32(response)):
            node = _int32(response)
            _skip_string(response)
            brokers[node] = _int32(response)
            _skip_string(response)
    except struct.error as error:
        raise OSError("not a response of Kafka") from error
    return brokers


def a_broker_responds(bootstrap: str, *, timeout: float = _PROBE_SECONDS) -> bool:
    """True if one of the bootstrap servers responds."""
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            ask_brokers(host.strip("[]"), int(port), timeout=timeout)
        except (OSError, ValueError):
            continue
        return True
    return False


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return data


def _int32(response: io.BytesIO) -> int:
    (value,) = struct.unpack(">i", response.read(4))
    return int(value)


def _skip_string(response: io.BytesIO) -> None:
    (length,) = struct.unpack(">h", response.read(2))
    response.seek(max(0, length), os.SEEK_CUR)
