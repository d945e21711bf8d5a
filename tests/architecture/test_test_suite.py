"""The rules of the tests themselves."""

import asyncio
import socket

import pytest


async def test_no_test_reaches_the_network_except_the_loopback() -> None:
    with pytest.raises(UserWarning, match=r'with host "192\.0\.2\.1"'):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(UserWarning, match=r'with host "192\.0\.2\.1"'):
        await asyncio.open_connection("192.0.2.1", 80)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
