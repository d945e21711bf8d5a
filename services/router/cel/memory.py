"""Conditions whose evaluation by CEL could need much memory.

CEL keeps every text and list that an evaluation makes until its end, and its budget of steps (10,000 elements of
macros) does not count their size. So the functions whose results can be larger than their arguments are refused, and
the others that make texts and lists are limited, so that a condition needs at most some hundred megabytes for the
longest text of an item. Names and calls come from `lexer`; a name in a string or a comment is none.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from services.router.cel.lexer import Lexeme, calls, tokens

MAX_LISTS: Final = 16
MAX_SUMS: Final = 30
MAX_CHANGES: Final = 4
MAX_LENGTH: Final = 2_000  # characters

_COMPARE: Final = "compare with contains(), startsWith() or endsWith(), or use a word list"
_REFUSED: Final = {
    "matches": "it would compile its pattern for every item."
    ' Add a word list under `terms` and write `"<list>" in terms`',
    "replace": f"its result can be much larger than the text: {_COMPARE}",
    "join": "its result can be much larger than the list: use exists() or all() with the list",
    "format": f"its result can be much larger than its arguments: {_COMPARE}",
    "quote": f"its result can be much larger than the text: {_COMPARE}",
}
_LIST_MACROS: Final = ("map", "filter")
_MACROS: Final = ("all", "exists", "exists_one", "existsOne", *_LIST_MACROS)
_CASES: Final = ("lowerAscii", "upperAscii")
_LISTS: Final = ("split", *_LIST_MACROS)
_MAKERS: Final = (*_CASES, *_LISTS, "reverse")


class Made(NamedTuple):
    """Something in a condition that makes a text or a list: a function, `+`, or `[` and `{` for a literal; and the
    number of macros around it."""

    by: str
    macros: int


def made(condition: str) -> list[Made]:
    """The functions and operators that make texts or lists in a compiled condition, in the order of the text."""
    lexemes = [*tokens(condition)]
    return [*_made(lexemes, dict(calls(lexemes)))]


def _made(lexemes: Sequence[Lexeme], called: dict[int, str]) -> Iterator[Made]:
    around: list[bool] = []  # for each open parenthesis, whether it belongs to a macro
    for place, (kind, text) in enumerate(lexemes):
        if kind == "name":
            if called.get(place) in _MAKERS:
                yield Made(text, sum(around))
        elif text == "(":
            around.append(called.get(place - 1) in _MACROS)
        elif text == ")":
            around.pop()
        elif text in "+{" or (text == "[" and not _is_index(lexemes[max(0, place - 1) : place])):
            yield Made(text, sum(around))


def _is_index(before: Sequence[Lexeme]) -> bool:
    return any(text in (")", "]") or (kind == "name" and text != "in") for kind, text in before)


def has_mixed_types(condition: str) -> bool:
    """True if a value of a condition may have a type that is known only when it is evaluated."""
    return any(one.by in ("[", "{") for one in made(condition)) or any(
        name == "dyn" for _, name in calls([*tokens(condition)])
    )


def refusal(condition: str, *, adds_numbers: bool) -> str | None:
    """Why a condition is refused, with the remedy; None if it is not. `adds_numbers`: every `+` is one of numbers."""
    for _, name in calls([*tokens(condition)]):
        if name in _REFUSED:
            return f"{name}() is not allowed: {_REFUSED[name]}."
    found = [one for one in made(condition) if one.by != "+" or not adds_numbers]
    inside = [one for one in found if one.macros]
    for by, macros in inside:
        if by in (*_LISTS, "reverse", "+") or (by in _CASES and macros > 1):
            shown = "`+` of texts or lists" if by == "+" else f"{by}()"
            return (
                f"{shown} is not allowed there: it would make a new value for every element. Use it outside of macros."
            )
    all_by = [one.by for one in found]
    changes = [one for one in inside if one.by in _CASES]
    if len(changes) > MAX_CHANGES or (changes and "split" in all_by):
        return (
            f"lowerAscii() and upperAscii() are allowed at most {MAX_CHANGES} times inside of a macro, and not together"
            ' with split(): change the text before, as in `title.lowerAscii().split(" ").exists(word, …)`.'
        )
    if "split" in all_by and any(name in all_by for name in _LIST_MACROS):
        return "map() and filter() are not allowed together with split(): use exists() or all()."
    if sum(all_by.count(name) for name in _LISTS) > MAX_LISTS:
        return (
            f"split(), map() and filter() are allowed at most {MAX_LISTS} times: write several conditions or policies."
        )
    if all_by.count("+") > MAX_SUMS:
        return f"`+` of texts or lists is allowed at most {MAX_SUMS} times: write several conditions or policies."
    if len(condition) > MAX_LENGTH and (inside or any(name in all_by for name in _LIST_MACROS)):
        return (
            f"a condition that makes texts or lists in a macro has at most {MAX_LENGTH:,} characters: write several"
            " conditions or policies, or use a word list."
        )
    return None


def needs_memory(condition: str) -> bool:
    """True for a condition that may need so much memory that it is not evaluated together with others."""
    return any(one.macros or one.by in (*_LISTS, "+") for one in made(condition))
