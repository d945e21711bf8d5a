"""Strict JSON decoding: rejects invalid JSON that the standard library accepts (NaN, lone surrogates), and finds
duplicate object keys, of which parsers silently keep the last.

The time is linear in the size of the text, for any depth, width and number of duplicates, because the sender chooses
its form.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final, TypeAlias

import jiter
import msgspec

JsonPath: TypeAlias = list[str | int]
"""The object keys and array indices that lead to a value."""

_MAX_DIGITS: Final = 20  # a 64-bit integer has at most 20
has_lone_surrogate = re.compile(
    rb"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}", re.IGNORECASE
).search


class MalformedJsonError(ValueError):
    """The text is not JSON; the message has the reason and the position."""


class ObjectWithDuplicates(dict[str, Any]):
    """A JSON object in which the keys in `duplicates` occur more than once; its members have the last values."""

    def __init__(self, members: dict[str, Any], duplicates: Collection[str]) -> None:
        super().__init__(members)
        self.duplicates = duplicates


def decode(text: bytes) -> Any:
    """Decode a JSON text. Objects with duplicate keys become `ObjectWithDuplicates`, and numbers out of the range of a
    float become infinite; raises MalformedJsonError."""
    try:
        return decode_raw(text)
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"the input is not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise MalformedJsonError("the input is nested too deeply") from error
    except ValueError as error:
        reason = str(error).removeprefix("JSON is malformed: ") if text.strip() else "it is empty; expected an object"
        raise MalformedJsonError(f"the input is not JSON: {reason}") from error


def decode_raw(text: bytes) -> Any:
    """As `decode`, but raises the decoders' own errors: ValueError (also UnicodeDecodeError) and RecursionError."""
    try:
        msgspec.json.decode(text)  # stricter than the standard library about UTF-8 and surrogates
    except msgspec.ValidationError as error:  # a number out of range; without types there is no other cause
        if has_lone_surrogate(text):
            raise ValueError("a \\u escape in it is half of a surrogate pair") from error
        return json.loads(text.decode(), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    return json.loads(text, object_pairs_hook=_object)


def walk(value: object) -> Iterator[tuple[JsonPath, object]]:
    """All values of a decoded text in order, each with its path. The path is one list that changes: copy it to keep
    it."""
    yield [], value
    path: JsonPath = [0]
    levels = [_members(value)]
    while levels:
        for name, member in levels[-1]:
            path[-1] = name
            yield path, member
            if isinstance(member, dict | list):
                levels.append(_members(member))
                path.append(0)
                break
        else:
            levels.pop()
            path.pop()


def duplicates(value: object) -> Iterator[JsonPath]:
    """The paths of duplicate object keys."""
    for path, member in walk(value):
        if isinstance(member, ObjectWithDuplicates):
            yield from ([*path, name] for name in member.duplicates)


def infinite_numbers(value: object) -> Iterator[JsonPath]:
    """The paths of the numbers that are out of the range of a float."""
    return (path.copy() for path, member in walk(value) if isinstance(member, float) and math.isinf(member))


def has_duplicates(text: bytes) -> bool:
    """True if an object in a valid JSON text has a duplicate key; `duplicates` finds the paths."""
    try:
        jiter.from_json(text, catch_duplicate_keys=True)
    except ValueError:  # a duplicate key, or nesting that is too deep for this parser
        return any(duplicates(decode_raw(text)))
    return False


def _members(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        return iter(value.items())
    return iter(enumerate(value)) if isinstance(value, list) else iter(())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counted = Counter(name for name, _ in pairs)
    return ObjectWithDuplicates(members, [name for name, count in counted.items() if count > 1])


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
