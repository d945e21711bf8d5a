"""Small modules of the local stack: errors, lock, ports, Java, the probe of Kafka."""

import errno
import multiprocessing
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from deploy.local.files import FolderLock, write_whole
from deploy.local.java import find_java, java_version
from deploy.local.kafka_probe import ask_brokers
from deploy.local.ports import free_ports
from shared.runtime.user_errors import UserError, file_errors


def test_an_error_is_two_sentences_and_the_last_lines() -> None:
    assert str(UserError("It broke.", "Mend it.")) == "It broke. Mend it."
    assert str(UserError("It broke.", "Mend it.", ["one", "two"])) == "It broke. Mend it.\n  | one\n  | two"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENOTDIR, "cannot be used"),
    ],
)
def test_an_error_of_the_file_system_becomes_a_sentence(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(UserError, match=words), file_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    FolderLock(path).acquire()
    held.set()
    threading.Event().wait(60)


def test_a_lock_names_its_holder_and_is_released_when_the_holder_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held))
    holder.start()
    try:
        assert held.wait(20)
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            FolderLock(tmp_path / "lock").acquire()
    finally:
        holder.kill()
        holder.join()
    lock = FolderLock(tmp_path / "lock")
    lock.acquire()
    lock.release()


def test_preferred_ports_are_used_while_they_are_free() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert free_ports(3, preferred=ports) == ports
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports[1]))
        other.listen()
        assert ports[1] not in free_ports(3, preferred=ports)


def test_the_java_that_the_variable_names_must_be_recent_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    monkeypatch.setenv("PIEPOWDER_JAVA", str(java))
    with pytest.raises(UserError, match="not a Java 17 or later"):
        find_java()
    for version, major in (("1.8.0_402", 8), ("11.0.2", 11), ("25", 25)):
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)
        assert java_version(java) == major
    assert find_java() == java


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
