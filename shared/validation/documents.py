"""A document with all faults of its format, for rules that report their own faults together with these."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from shared.validation.faults import Fault

S = TypeVar("S", bound=msgspec.Struct)


class ParsedDocument(NamedTuple, Generic[S]):
    """A decoded document: its value, and the faults of its format.

    The value has placeholders for the top-level fields in `invalid_fields`. It is None if no part of the document is
    usable, or if there are too many faults.
    """

    value: S | None
    faults: list[Fault]
    invalid_fields: frozenset[str]

    def with_rules(self, faults: Iterator[Fault]) -> list[Fault]:
        """The faults of the format, and the faults of rules (`faults`) that do not concern a placeholder."""
        return self.faults + [fault for fault in faults if top_level(fault.pointer) not in self.invalid_fields]


def top_level(pointer: str) -> str:
    """The first step of a JSON pointer."""
    return pointer.partition("/")[2].partition("/")[0]
