"""The one question we ask a Kafka broker ourselves, on a plain socket: which brokers are there? A broker answers it
only when it has joined its cluster and takes work, which a mere TCP connection does not show. Metadata, version 1,
of the Kafka protocol (https://kafka.apache.org/protocol)."""

import socket
import struct

_METADATA, _VERSION, _CORRELATION = 3, 1, 7
_CLIENT = b"piepowder"


def ask_brokers(host: str, port: int, *, timeout: float = 1.0) -> dict[int, int]:
    """Node id to port of the brokers that take work. Raises `OSError` when nothing answers, or not in Kafka's words."""
    request = struct.pack(f">hhih{len(_CLIENT)}si", _METADATA, _VERSION, _CORRELATION, len(_CLIENT), _CLIENT, 0)
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _read(connection, 4))
        if not 8 <= size <= 2**20:
            raise OSError("not an answer of Kafka")
        answer = _Answer(_read(connection, size))
    try:
        if answer.int32() != _CORRELATION:
            raise OSError("not an answer of Kafka")
        brokers: dict[int, int] = {}
        for _ in range(answer.int32()):
            node = answer.int32()
            answer.string()
            brokers[node] = answer.int32()
            answer.string()
    except struct.error as error:
        raise OSError("not an answer of Kafka") from error
    return brokers


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return data


class _Answer:
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
