"""Messages of errors are sentences for a person: each ends with a full stop, and none has names of the code."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from shared.runtime.user_errors import sentence
from tests.conftest import project_root

FOLDERS: Final = ("piepowder", "deploy", "services", "shared")
# Exceptions whose text a person reads, and functions that write a failure. `Poison` has a reason, not a sentence.
RAISED: Final = frozenset({"UserError", "NotReadyError", "BadParameter", "Transient", "Fatal", "failure"})
SHOWN: Final = frozenset({"show_error", "warn"})
INTERNALS: Final = ("type(error).__name__", "type(failure).__name__", "error!r", "failure!r", "exc!r", "__class__")


class Message(NamedTuple):
    """A literal text of an error, with its place; an expression in it is `{…}`."""

    place: str
    text: str
    source: str


def messages() -> Iterator[Message]:
    root = project_root()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _name(node.func) in RAISED | SHOWN:
                    for argument in node.args[:2]:
                        place = f"{path.relative_to(root)}:{argument.lineno}"
                        if (text := _text(argument)) is not None:
                            yield Message(place, text, ast.unparse(argument))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(argument: ast.expr) -> str | None:
    """The text of a literal; None for another expression."""
    if isinstance(argument, ast.Constant):
        return argument.value if isinstance(argument.value, str) else None
    if not isinstance(argument, ast.JoinedStr):
        return None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in argument.values)


def test_each_message_of_an_error_ends_with_a_full_stop() -> None:
    found = list(messages())
    assert len(found) > 150
    wrong = [f"{one.place} {one.text[-70:]!r}" for one in found if one.text and sentence(one.text) != one.text]
    assert not wrong, "\n".join(wrong)


def test_no_message_has_the_name_of_a_class_or_the_code_of_an_exception() -> None:
    wrong = [f"{one.place} {one.source}" for one in messages() if any(name in one.source for name in INTERNALS)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The disk is full", "The disk is full."),
        ("The disk is full.", "The disk is full."),
        ("Create it: `piepowder topics`", "Create it: `piepowder topics`."),
        ("expected one of 'a', 'b'", "expected one of 'a', 'b'."),
        ("It is not known (see docs.)", "It is not known (see docs.)"),
        ("What is missing:", "What is missing:"),
        ("Is there a network?", "Is there a network?"),
        ("cut \n", "cut."),
        ("The router does not respond: its key is wrong..", "The router does not respond: its key is wrong."),
        ("and so on...", "and so on..."),
    ],
)
def test_a_sentence_gets_one_full_stop(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_the_folders_exist() -> None:
    assert all((project_root() / Path(folder)).is_dir() for folder in FOLDERS)
