"""One fault of an input, with its JSON pointer."""

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault of an input: its place (JSON pointer, RFC 6901) and the expected value."""

    pointer: str
    detail: str
