"""JSON, read strictly. The standard library lets pass what is no JSON (NaN, halves of surrogate pairs), and of a name
that an object has twice every reader keeps the last; so whoever sent it would never know that the other was not read.
What is done here takes as long as the text is, however deep, wide or doubled: whoever sent it chose its form."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final, TypeAlias

import msgspec

Place: TypeAlias = list[str | int]
"""Where a value stands: the names and numbers that lead to it."""

_MOST_DIGITS: Final = 20  # no number of 64 bits has more
has_lone_surrogate = re.compile(
    rb"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}", re.IGNORECASE
).search


class Malformed(ValueError):  # noqa: N818 - what the text is
    """It is no JSON; the sentence says why, and where."""


class Object(dict[str, Any]):
    """A JSON object in which some names, `twice`, were more than once."""

    def __init__(self, members: dict[str, Any], twice: Collection[str]) -> None:
        super().__init__(members)
        self.twice = twice


def decode(text: bytes) -> Any:
    """What a JSON text says, its objects as `Object`s where that matters, and as infinite a number that is too large to
    be one; raises Malformed."""
    try:
        return read(text)
    except UnicodeDecodeError as error:
        raise Malformed(f"the input is not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise Malformed("the input is nested too deeply") from error
    except ValueError as error:
        said = str(error).removeprefix("JSON is malformed: ") if text.strip() else "it is empty; expected an object"
        raise Malformed(f"the input is not JSON: {said}") from error


def read(text: bytes) -> Any:
    """The same as `decode`, but raises what the readers do: ValueError (UnicodeDecodeError too), RecursionError."""
    try:
        msgspec.json.decode(text)  # strict where the standard library is not: UTF-8, surrogates
    except msgspec.ValidationError as error:  # a number: without types there is nothing else to refuse
        if has_lone_surrogate(text):
            raise ValueError("a \\u escape in it is half of a surrogate pair") from error
        return json.loads(text.decode(), object_pairs_hook=_object, parse_int=_whole, parse_constant=_constant)
    return json.loads(text, object_pairs_hook=_object)


def walk(value: object) -> Iterator[tuple[Place, object]]:
    """All values in what was read, from the first to the last, each with its place: the walk's own, which moves on."""
    yield [], value
    place: Place = [0]
    levels = [_members(value)]
    while levels:
        for name, member in levels[-1]:
            place[-1] = name
            yield place, member
            if isinstance(member, dict | list):
                levels.append(_members(member))
                place.append(0)
                break
        else:
            levels.pop()
            place.pop()


def twice(value: object) -> Iterator[Place]:
    """The places of the members that are there more than once, in what `decode` gave."""
    for place, one in walk(value):
        if isinstance(one, Object):
            yield from ([*place, name] for name in one.twice)


def too_large(value: object) -> Iterator[Place]:
    """The places of the numbers that are too large to be one, in what `decode` gave."""
    return (place.copy() for place, one in walk(value) if isinstance(one, float) and math.isinf(one))


def has_duplicates(text: bytes) -> bool:
    """Whether an object of a valid JSON text has a duplicate name; `twice` finds their places."""
    try:
        _find_duplicates(text.decode())
    except _DuplicateName:
        return True
    return False


class _DuplicateName(Exception):  # noqa: N818 - not an error
    pass


def _require_unique(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _DuplicateName


_find_duplicates = json.JSONDecoder(object_pairs_hook=_require_unique).decode


def _members(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        return iter(value.items())
    return iter(enumerate(value)) if isinstance(value, list) else iter(())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counted = Counter(name for name, _ in pairs)
    return Object(members, [name for name, count in counted.items() if count > 1])


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number in it")
