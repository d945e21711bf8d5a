"""Project rules that no linter checks: the same modules in every service, one clock, one source of ids."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import services

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))
SERVICE_MODULES = ("__init__", "__main__", "settings", "app")
AREA_MODULES = ("__init__", "domain", "handlers", "api")
AREAS = {"intake": ("items", "notices", "requests", "clients")}
WITH_DATABASE = {service.name for service in services.SERVICES if service.database}
FORBIDDEN_CALLS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("time", "time"),
    ("uuid", "uuid1"),
    ("uuid", "uuid4"),
}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_the_list_of_services_matches_the_folders() -> None:
    assert sorted(service.name for service in services.SERVICES) == SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_and_each_area_has_the_standard_modules(service: str) -> None:
    root = ROOT / "services" / service
    areas = [root / area for area in AREAS.get(service, ())] or [root]
    expected = [root / name for name in SERVICE_MODULES]
    expected += [area / name for area in areas for name in AREA_MODULES]
    assert [path for path in expected if not path.with_suffix(".py").exists() and not path.is_dir()] == []
    stores = {(area / "store.py").exists() or (area / "store").is_dir() for area in areas}
    assert stores == {service in WITH_DATABASE}
    assert (root / "migrations").is_dir() == (service in WITH_DATABASE)


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_a_page_in_the_docs(service: str) -> None:
    page = ROOT / "docs" / "architecture" / f"{service}.md"
    assert page.is_file(), f"write {page.relative_to(ROOT)}"
    assert len(page.read_text().split()) > 100


@pytest.mark.parametrize("service", SERVICES)
def test_the_code_reads_every_setting_of_its_service(service: str) -> None:
    """A search for `settings.<name>` and, in the settings classes, `self.<name>`."""
    kind = importlib.import_module(f"services.{service}.settings").Settings
    files = {path: path.read_text() for path in sources(f"services/{service}", "shared")}
    assert sum(path.name == "settings.py" for path in files) == 2
    unread = [
        name
        for name in kind.model_fields
        if not any(
            re.search(rf"\b{owner}\.{name}\b", code)
            for path, code in files.items()
            for owner in ("settings", *(["self"] if path.name == "settings.py" else []))
        )
    ]
    assert unread == []


def test_only_the_clock_module_reads_the_time_and_no_code_calls_uuid1_or_uuid4() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.value.id}.{node.func.attr}()"
        for path in sources("services", "shared", "piepowder")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in FORBIDDEN_CALLS
    }
    assert {place.partition(":")[0] for place in found} == {"shared/runtime/clock.py"}


def test_every_module_has_a_docstring() -> None:
    without = [
        path.relative_to(ROOT).as_posix()
        for path in sources("services", "shared", "piepowder", "deploy")
        if "migrations" not in path.parts and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert without == []


def test_every_ignore_has_a_reason() -> None:
    bare = []
    for path in sources("services", "shared", "piepowder", "deploy", "tests"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.search(r"#\s*(type: ignore(\[[^]]*\])?|noqa\S*( [A-Z0-9, ]+)?)(.*)$", line)
            if found and not re.search(r"[-#] *\w+", found.group(4)):
                bare.append(f"{path.relative_to(ROOT)}:{number}")
    assert bare == []


def test_lock_files_have_hashes_and_no_urls() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text
        assert "--index-url" not in text
        packages = re.findall(r"^[a-z0-9][\w.-]*==", text, re.MULTILINE)
        assert len(packages) > 20
        for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
            assert "--hash=sha256:" in block, block
