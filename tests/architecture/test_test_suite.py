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


WITHOUT_A_MODULE = {
    "chaos/test_tools.py": "faults, load, journal and proxies of a chaos run",
    "intake/test_accepted_fields.py": "every body of intake",
}


def test_each_unit_and_property_test_has_the_path_of_its_module() -> None:
    """`test_<module>.py` or `test_<module>_<aspect>.py`, in the folder of a module, a package or a folder of files."""
    without = {
        path.relative_to(TESTS / kind).as_posix()
        for kind in ("unit", "property")
        for path in (TESTS / kind).rglob("test_*.py")
        if not any(has_module(path.parent.relative_to(TESTS / kind), name) for name in names(path))
    }
    assert without == WITHOUT_A_MODULE.keys()


def names(path: Path) -> Iterator[str]:
    words = path.stem.split("_")[1:]
    return ("_".join(words[:count]) for count in range(1, len(words) + 1))


def has_module(folder: Path, name: str) -> bool:
    roots = [TESTS.parent / "services", TESTS.parent, TESTS]
    return any((root / folder / f"{name}.py").is_file() or (root / folder / name).is_dir() for root in roots)


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
