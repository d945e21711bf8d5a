"""A write to a closed connection is an error of the connection; every other defect stays what it is (promise 9)."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import conn
from aiokafka.errors import KafkaConnectionError

import shared.kafka  # noqa: F401 - corrects the client


def connection(monkeypatch: pytest.MonkeyPatch, *, is_closing: bool) -> tuple[Any, list[Any]]:
    """A connection whose writes fail, and the reasons with which it is closed."""

    def fail(*_: object) -> None:
        raise RuntimeError("unable to perform operation")

    monkeypatch.setattr(conn.AIOKafkaConnection.__base__, "send", fail)
    failing, closed = conn.AIOKafkaConnection("localhost", 1), list[Any]()
    monkeypatch.setattr(failing, "close", lambda reason, **_: closed.append(reason))
    monkeypatch.setattr(failing, "_writer", SimpleNamespace(is_closing=lambda: is_closing))
    return failing, closed


async def test_a_write_to_a_closed_connection_closes_it_for_the_client_too(monkeypatch: pytest.MonkeyPatch) -> None:
    failing, closed = connection(monkeypatch, is_closing=True)
    with pytest.raises(KafkaConnectionError, match="unable to perform operation"):
        failing.send("request")
    assert closed == [conn.CloseReason.CONNECTION_BROKEN]


async def test_a_defect_of_an_open_connection_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing, closed = connection(monkeypatch, is_closing=False)
    with pytest.raises(RuntimeError, match="unable to perform operation"):
        failing.send("request")
    assert closed == []
