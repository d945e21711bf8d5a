"""The probe of Kafka: the brokers in its response."""

import socket
import struct
import threading

import pytest

from deploy.local.kafka_probe import ask_brokers


def _respond_once(payload: bytes) -> int:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(payload)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def test_the_brokers_are_read_from_kafkas_response() -> None:
    broker = struct.pack(">ih9sih", 1, 9, b"127.0.0.1", 9092, -1)
    response = struct.pack(">ii", 7, 1) + broker + struct.pack(">ii", 1, 0)
    port = _respond_once(struct.pack(">i", len(response)) + response)
    assert ask_brokers("127.0.0.1", port) == {1: 9092}


@pytest.mark.parametrize("payload", [b"", b"HTTP/1.1 400 Bad Request\r\n", struct.pack(">iii", 8, 7, 1000)])
def test_another_server_is_not_mistaken_for_kafka(payload: bytes) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - any subclass
        ask_brokers("127.0.0.1", _respond_once(payload))
