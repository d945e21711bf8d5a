"""Word lists for tests: what a list finds in a text."""

from collections.abc import Iterable, Sequence

from services.router.domain.routing import FoundTerms
from services.router.terms import Terms
from services.router.terms.lists import TermList


def one_list(
    *phrases: str, match: Iterable[str] = (), exceptions: Sequence[str] = (), patterns: Sequence[str] = ()
) -> Terms:
    """One list, `list`."""
    return Terms([TermList("list", phrases, exceptions, frozenset(match), patterns)])


def plain_lists(lists: dict[str, list[str]]) -> Terms:
    """Lists without options."""
    return Terms([TermList(name, phrases) for name, phrases in lists.items()])


def marked(found: FoundTerms, *, title: str = "", text: str = "") -> list[str]:
    """The parts of the original texts that were found, in order."""
    return [{"title": title, "text": text}[hit.field][hit.start : hit.end] for hit in found.hits]


def parts(text: str, *phrases: str, match: Iterable[str] = (), exceptions: Sequence[str] = ()) -> list[str]:
    """The parts of a text that a list with these phrases finds."""
    return marked(one_list(*phrases, match=match, exceptions=exceptions).find("", text), text=text)
