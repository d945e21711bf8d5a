"""The result of an import: items to send, and refused lines."""

from typing import NamedTuple


class OmittedField(NamedTuple):
    """A faulty optional field that `--lenient` left out of an item, with the fault."""

    field: str
    detail: str


class Line(NamedTuple):
    """An item as a JSON object without line breaks, and the number of its line (row, element) in the file."""

    number: int
    body: bytes
    omitted: tuple[OmittedField, ...] = ()


class Refusal(NamedTuple):
    """A line that was not sent (status 0) or that intake refused, with the reason."""

    number: int
    status: int
    detail: str
