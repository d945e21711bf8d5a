"""A JSON object that a person or a form wrote: read strictly, and the faults of its form told at once.

Not for the hot path: it costs a second, untyped reading. What the first one lets pass is found here too: names that are
there twice (of which only the last would count), control characters, numbers beyond 64 bits. It ends with the faults
that are told, and takes as long as the text is.
"""

import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain, islice
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from services.intake.domain.faults import Fault, mismatches, pointer_to
from services.intake.domain.posts import MAX_FAULTS, Refused
from shared.validation import strict_json
from shared.validation.strict_json import ObjectWithDuplicates

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
        faults = list(islice(chain(mismatches(given, self._shape), _value_faults(given)), MAX_FAULTS))
        unsound = frozenset(_top(fault.pointer) for fault in faults)
        if "" in unsound or len(faults) == MAX_FAULTS:
            return Reading(None, faults, unsound)
        known = self._kind.__struct_encode_fields__
        sound = {name: value for name, value in given.items() if name in known and name not in unsound}
        return Reading(msgspec.convert(self._stand_ins | sound, self._kind), faults, unsound)


def decode(text: bytes) -> Any:
    """What a JSON text says, as `strict_json.decode` has it; raises Refused (400) when it is no JSON."""
    try:
        return strict_json.decode(text)
    except strict_json.MalformedJsonError as error:
        raise Refused(400, "malformed-json", "The input is not JSON", [Fault("", str(error))]) from error


def _value_faults(given: object) -> Iterator[Fault]:
    """What no text and no number may be, wherever it stands."""
    for place, value in strict_json.walk(given):
        if isinstance(value, str):
            if found := _control(value):
                said = f"control character U+{ord(found[0]):04X} at {found.start()}; of these only tab and line ends"
                yield Fault(_pointer(place), f"{said} are taken")
        elif isinstance(value, int):
            if abs(value) > _LARGEST:
                yield Fault(_pointer(place), "a number beyond 64 bits")
        elif isinstance(value, dict):
            for name in value.duplicates if isinstance(value, ObjectWithDuplicates) else ():
                yield Fault(_pointer([*place, name]), "is there more than once")
            for name in value:
                if _control(name):
                    yield Fault(_pointer([*place, name]), "a control character in the name")


def _pointer(place: Sequence[str | int]) -> str:
    return reduce(pointer_to, place, "")


def _top(pointer: str) -> str:
    return pointer.partition("/")[2].partition("/")[0]
