"""The OpenAPI documents of every service, as files.

`docs/openapi/` holds the present documents; `.venv/bin/python -m tests.contract.rest_documents` writes them.
`docs/contracts/rest-v1/` holds the documents that version 1 of the API must stay compatible with; they never change.
The same command creates the baseline of a new service, and changes no other baseline.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.conftest import project_root
from tests.contract.rest_services import SERVICES, serving

PRESENT: Final = project_root() / "docs" / "openapi"
BASELINE: Final = project_root() / "docs" / "contracts" / "rest-v1"
COMMAND: Final = ".venv/bin/python -m tests.contract.rest_documents"


def read(folder: Path, service: str) -> str:
    """The text of a document in `PRESENT` or `BASELINE`; raises AssertionError with the command if it is missing."""
    path = folder / f"{service}.json"
    assert path.is_file(), f"{path.relative_to(project_root())} is missing; run: {COMMAND}"
    return path.read_text(encoding="utf-8")


def load(folder: Path, service: str) -> dict[str, Any]:
    """A document of `PRESENT` or `BASELINE`."""
    document: dict[str, Any] = json.loads(read(folder, service))
    return document


def text_of(document: dict[str, Any]) -> str:
    """The content of a document's file."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


async def generate(service: str) -> dict[str, Any]:
    """The document that the service publishes now."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving(service, Path(folder), in_force=False) as served:
            return served.document


def write() -> None:
    """Write the documents of all services to `PRESENT`, and of the new services to `BASELINE`."""
    for service in SERVICES:
        text = text_of(asyncio.run(generate(service)))
        (PRESENT / f"{service}.json").write_text(text, encoding="utf-8")
        if not (baseline := BASELINE / f"{service}.json").exists():
            baseline.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"usage: {COMMAND}")
    write()
