"""Rules for the tests: shared code has its own modules, and no test connects to the network."""

import ast
import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_nothing_imports_from_a_test_module() -> None:
    found = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imported(path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert found == []


async def test_tests_can_connect_only_to_the_loopback() -> None:
    with pytest.raises(UserWarning, match=r'with host "192\.0\.2\.1"'):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(UserWarning, match=r'with host "192\.0\.2\.1"'):
        await asyncio.open_connection("192.0.2.1", 80)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
