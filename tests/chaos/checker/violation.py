"""Violations, and the type of the checks that find them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.chaos.checker.facts import Facts


class Violation(NamedTuple):
    """A broken promise; `records` show it."""

    promise: int
    title: str
    records: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"promise {self.promise}: {self.title}", *(f"    {record}" for record in self.records)])


Check = Callable[[Facts], Iterator[Violation]]
