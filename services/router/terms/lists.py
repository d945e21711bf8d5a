"""Word lists as a policy set has them: phrases, exceptions and options."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from services.router.domain.routing import InvalidTerms, TermFault
from services.router.terms import personal_data
from services.router.terms.phrases import ACCENTS, INFLECTION, PREFIXES
from services.router.terms.readings import JOINED, LEET, SPACED
from shared.contracts.events import TermOptions

MATCH_OPTIONS: Final = (INFLECTION, JOINED, SPACED, LEET, PREFIXES, ACCENTS)
PATTERN_NAMES: Final = tuple(personal_data.PATTERNS)

_PLAIN: Final = TermOptions()


class TermList(NamedTuple):
    """A word list: its phrases, the names of its patterns, its exceptions and its options."""

    name: str
    phrases: Sequence[str]
    exceptions: Sequence[str] = ()
    options: frozenset[str] = frozenset()
    patterns: Sequence[str] = ()

    def named(self, number: int) -> str:
        """The phrase or the pattern with this number; patterns follow phrases."""
        return [*self.phrases, *self.patterns][number]


def term_lists(terms: Mapping[str, Sequence[str]], options: Mapping[str, TermOptions]) -> list[TermList]:
    """The word lists of a policy set; raises InvalidTerms with every option that this version does not know."""
    faults: list[TermFault] = []
    for name, own in options.items():
        for place, given, known in (("match", own.match, MATCH_OPTIONS), ("patterns", own.patterns, PATTERN_NAMES)):
            faults += [
                TermFault(name, f"{place}/{number}", f"{option!r} is not one of {', '.join(known)}")
                for number, option in enumerate(given)
                if option not in known
            ]
    if faults:
        raise InvalidTerms(faults)
    return [
        TermList(name, phrases, own.exceptions, frozenset(own.match), own.patterns)
        for name, phrases in terms.items()
        for own in [options.get(name, _PLAIN)]
    ]
