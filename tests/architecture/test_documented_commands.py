"""Every command of the documents is one that a test runs: it is in a ```sh block, and the lists of exceptions are short
and current. Commands inside sentences exist, with their options."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from piepowder.cli import app
from tests.conftest import project_root
from tests.support import markdown
from tests.support.documented_commands import NOT_RUN, RUN_ELSEWHERE

LANGUAGES: Final = {"sh", "", "mermaid", "python", "javascript", "yaml", "ini", "sql"}
_PROGRAMS: Final = (
    *(
        "curl",
        "docker",
        "eval",
        "export",
        "helm",
        "jq",
        "kcat",
        "kubectl",
        "make",
        "node",
        "npm",
        "pg_dump",
        "pg_restore",
    ),
    *("piepowder", "pip", "psql", "python", "python3", "unshare"),
)
_COMMAND: Final = re.compile(rf"^\s*(\$ )?(\.venv/bin/\S+|{'|'.join(_PROGRAMS)}) +[^-\s=(\[]?\S", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"^([A-Z][A-Z_]*|…|<\w+>|\.\.\.|\$\w+)$")


@pytest.mark.parametrize("document", markdown.documents(), ids=markdown.name_of)
def test_every_command_is_in_a_block_of_commands(document: Path) -> None:
    found = [block for block in markdown.blocks(document) if block.language not in LANGUAGES]
    assert not found, "unknown language of a block"
    lines = []
    for block in markdown.blocks(document):
        if block.language in ("", "python", "javascript", "yaml"):
            lines += [f"{block.document}:{block.line} {match[0]}" for match in _COMMAND.finditer(block.text)]
    indented = re.findall(r"^(?: {4}|\t).*", markdown.outside_of_fences(document), re.MULTILINE)
    lines += [line for line in indented if _COMMAND.match(line)]
    assert not lines, "a command in a block that is not ```sh is not run by a test"


def test_each_exception_is_one_block() -> None:
    blocks = [block for document in markdown.documents() for block in markdown.commands(document)]
    for one in NOT_RUN:
        found = [block for block in blocks if block.document == one.document and block.first.startswith(one.first)]
        assert len(found) == 1, one
        assert one.reason
    assert len(NOT_RUN) < len(blocks) / 2


def test_each_document_that_another_test_runs_has_commands_and_this_test() -> None:
    for document, test in RUN_ELSEWHERE.items():
        assert markdown.commands(project_root() / document)
        assert Path(document).name in (project_root() / test).read_text(encoding="utf-8")


def inline_commands() -> Iterator[tuple[str, list[str]]]:
    """The commands in the sentences of the documents, with their document."""
    for document in markdown.documents():
        for code in markdown.inline_code(document):
            if re.match(r"(\.venv/bin/)?piepowder |make \w|(\.venv/bin/)?python -m ", code):
                try:
                    words = shlex.split(code)
                except ValueError:  # a part of a command
                    continue
                yield markdown.name_of(document), words


def test_each_command_in_a_sentence_exists_with_its_options() -> None:
    makefile = (project_root() / "Makefile").read_text(encoding="utf-8")
    wrong, count = [], 0
    for document, words in inline_commands():
        count += 1
        program = words[0].rpartition("/")[2]
        if program == "make":
            known = re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE) is not None
        elif program == "python":
            known = importlib.util.find_spec(words[2]) is not None
        else:
            known = _is_known(words[1:])
        if not known:
            wrong.append(f"{document}: {' '.join(words)}")
    assert count > 60
    assert not wrong, "\n".join(wrong)


def _is_known(words: list[str]) -> bool:
    """True if these words are a command with existing options."""
    command: Any = get_command(app)
    words = [word for word in words if word not in ("|", ">", "<")]
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        command = command.get_command(None, words.pop(0)) if not _PLACEHOLDER.match(words[0]) else None
        if command is None:
            return False
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    return given <= options | {"--help"}


@pytest.mark.parametrize("words", [["subimt", "x"], ["submit", "x", "--maket", "DE"], ["clients", "invent"]])
def test_a_wrong_command_in_a_sentence_is_found(words: list[str]) -> None:
    assert not _is_known(words)
