"""What a call asks for behind its `?`, read strictly: a parameter that is not known, or twice there, is refused too."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from starlette.requests import Request

from shared.http.http import query_of
from shared.validation.faults import Fault, InputRejected

T = TypeVar("T")

LARGEST_PAGE: Final = 200
USUAL_PAGE: Final = 50


class Query:
    """A call's parameters, of which `known` are taken. Faults gather until `check`."""

    def __init__(self, request: Request, *known: str) -> None:
        self._given = query_of(request)
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        others = sorted(set(self._given) - set(known))
        self._faults = [Fault(f"/query/{name[:100]}", f"is no parameter of this call; {takes}") for name in others]
        twice = [name for name in known if len(self._given.getlist(name)) > 1]
        self._faults += [Fault(f"/query/{name}", "is given more than once") for name in twice]

    def read(self, name: str, read: Callable[[str], T], expected: str) -> T | None:
        """A parameter, None when it is not there; a fault when `read` raises ValueError."""
        given = self._given.get(name)
        if given is None:
            return None
        try:
            return read(given)
        except ValueError:
            self._faults.append(Fault(f"/query/{name}", f"{given!r:.60} is not {expected}"))
            return None

    def text(self, name: str, longest: int) -> str | None:
        """Printable characters, at least one."""

        def printable(text: str) -> str:
            if not 0 < len(text) <= longest or not text.isprintable():
                raise ValueError
            return text

        return self.read(name, printable, f"1 to {longest} printable characters")

    def one_of(self, name: str, known: Sequence[str]) -> str | None:
        """One of a few words."""

        def word(text: str) -> str:
            if text not in known:
                raise ValueError
            return text

        return self.read(name, word, f"one of {', '.join(known)}")

    def limit(self) -> int:
        """How many a page may hold."""

        def number(text: str) -> int:
            if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= LARGEST_PAGE):
                raise ValueError
            return int(text)

        return self.read("limit", number, f"a number from 1 to {LARGEST_PAGE}") or USUAL_PAGE

    def cursor(self, read: Callable[[str], T]) -> T | None:
        """Where the page before ended."""
        return self.read("cursor", read, "a cursor of this list: send `next` of the page before, or none to begin")

    def check(self) -> None:
        """Raises InputRejected with every fault found."""
        if self._faults:
            raise InputRejected(422, "invalid-request", "The request does not fit", self._faults)
