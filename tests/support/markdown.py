"""The code blocks and the inline code of the project's Markdown documents."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.conftest import project_root

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_INLINE: Final = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")


class CodeBlock(NamedTuple):
    """A fenced block: its document (path from the root), line, language and text without its indentation."""

    document: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, which identifies it in a document."""
        return self.text.splitlines()[0].strip()


def documents() -> list[Path]:
    """README.md, CONTRIBUTING.md and all pages of docs."""
    root = project_root()
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def name_of(document: Path) -> str:
    return document.relative_to(project_root()).as_posix()


def blocks(document: Path) -> list[CodeBlock]:
    """The fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        found.append(CodeBlock(name_of(document), text.count("\n", 0, match.start()) + 1, match["language"], code))
    return found


def commands(document: Path) -> list[CodeBlock]:
    """The blocks of a document that are commands."""
    return [block for block in blocks(document) if block.language == "sh"]


def outside_of_fences(document: Path) -> str:
    """The text of a document with an empty line in place of each line of its fenced blocks."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), document.read_text(encoding="utf-8"))


def inline_code(document: Path) -> Iterator[str]:
    """The inline code of a document, on one line."""
    for match in _INLINE.finditer(outside_of_fences(document)):
        yield " ".join(match[1].split())
