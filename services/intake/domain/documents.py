"""A JSON object that a person or a form wrote: read strictly, and every fault of its form told at once.

Not for the hot path: it costs a second, untyped reading. What the first one lets pass is found here too: names that are
there twice (of which only the last would count), control characters, numbers beyond 64 bits.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from services.intake.domain.faults import Fault, mismatches, pointer_to
from services.intake.domain.posts import Refused

S = TypeVar("S", bound=msgspec.Struct)

_LARGEST: Final = 2**63 - 1
_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search


class Reading(NamedTuple, Generic[S]):
    """What a text says: faults of form by pointer, and the value that its sound fields make, None if there are none to
    speak of. What the value says about the fields in `unsound` is not the text's."""

    value: S | None
    faults: list[Fault]
    unsound: frozenset[str]

    def with_meaning(self, faults: Iterator[Fault]) -> list[Fault]:
        """All faults: of form, and those of meaning that are about sound fields."""
        return self.faults + [fault for fault in faults if _top(fault.pointer) not in self.unsound]


class Form(Generic[S]):
    """What an object is to be. `stand_ins` are values for the fields that have no default."""

    def __init__(self, kind: type[S], /, **stand_ins: Any) -> None:
        self._kind = kind
        self._shape = inspect.type_info(kind)
        self._stand_ins = stand_ins

    def read(self, text: bytes) -> Reading[S]:
        """The object in a JSON text; raises Refused (400) when it is no JSON."""
        return self.of(decode(text))

    def of(self, given: Any) -> Reading[S]:
        """The object that `decode` gave."""
        faults = [*mismatches(given, self._shape), *_value_faults(given, "")]
        unsound = frozenset(_top(fault.pointer) for fault in faults)
        if "" in unsound or not isinstance(given, Object):
            return Reading(None, faults, unsound)
        sound = {name: value for name, value in given.items() if name not in unsound}
        return Reading(msgspec.convert(self._stand_ins | sound, self._kind), faults, unsound)


class Object(dict[str, Any]):
    """A JSON object; `twice` are the names that were in it more than once."""

    def __init__(self, members: dict[str, Any], twice: Collection[str] = ()) -> None:
        super().__init__(members)
        self.twice = twice


def decode(text: bytes) -> Any:
    """What a JSON text says, its objects as `Object`s; raises Refused (400) when it is no JSON."""
    try:
        msgspec.json.decode(text)  # strict where the standard library is not: UTF-8, surrogates, numbers
        return json.loads(text, object_pairs_hook=_pairs)
    except UnicodeDecodeError as error:
        raise _malformed(f"the input is not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise _malformed("the input is nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:
        said = str(error).removeprefix("JSON is malformed: ") if text.strip() else "it is empty; expected an object"
        raise _malformed(f"the input is not JSON: {said}") from error


def _pairs(pairs: list[tuple[str, Any]]) -> Object:
    members = dict(pairs)
    if len(members) == len(pairs):
        return Object(members)
    names = [name for name, _ in pairs]
    return Object(members, [name for name in members if names.count(name) > 1])


def _malformed(detail: str) -> Refused:
    return Refused(400, "malformed-json", "The input is not JSON", [Fault("", detail)])


def _value_faults(value: object, pointer: str) -> Iterator[Fault]:
    """What no text and no number may be, wherever it stands."""
    if isinstance(value, str):
        if found := _control(value):
            place = f"control character U+{ord(found[0]):04X} at {found.start()}"
            yield Fault(pointer, f"{place}; of these only tab and line ends are taken")
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            yield Fault(pointer, "a number beyond 64 bits")
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _value_faults(element, pointer_to(pointer, index))
    elif isinstance(value, dict):
        for name in value.twice if isinstance(value, Object) else ():
            yield Fault(pointer_to(pointer, name), "is there more than once")
        for name, element in value.items():
            if _control(name):
                yield Fault(pointer_to(pointer, name), "a control character in the name")
            yield from _value_faults(element, pointer_to(pointer, name))


def _top(pointer: str) -> str:
    return pointer.partition("/")[2].partition("/")[0]
