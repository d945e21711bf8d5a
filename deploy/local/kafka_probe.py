"""A probe of a Kafka broker on a plain socket: which brokers accept work? A broker responds only after it has joined
its cluster, which an open port does not show. Metadata request, version 1 (https://kafka.apache.org/protocol)."""

import socket
import struct

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
        response = _Response(_read(connection, size))
    try:
        if response.int32() != _CORRELATION:
            raise OSError("not a response of Kafka")
        brokers: dict[int, int] = {}
        for _ in range(response.int32()):
            node = response.int32()
            response.string()
            brokers[node] = response.int32()
            response.string()
    except struct.error as error:
        raise OSError("not a response of Kafka") from error
    return brokers


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return data


class _Response:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def int32(self) -> int:
        (value,) = struct.unpack_from(">i", self._data, self._at)
        self._at += 4
        return int(value)

    def string(self) -> None:
        (length,) = struct.unpack_from(">h", self._data, self._at)
        self._at += 2 + max(0, length)
