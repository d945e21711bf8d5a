"""Word lists: finds all lists with a phrase in a title or a text, in one pass, and locates the phrases.

Text and phrases are compared in a folded form (`folding`). Aho-Corasick finds candidates in one linear pass, whatever
the number of phrases; an exact pattern confirms and locates the few candidates (`phrases`). A second pass, over a
reading without disguises (`readings`), is made only if a list enables it and the text has one. The result depends on
the texts and the lists only, so the same item always gives the same case.
"""

import string
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

import re2
from ahocorasick_rs import AhoCorasick, Implementation

from services.router.domain.routing import NOTHING_FOUND, FoundTerms, TermFault
from services.router.terms import personal_data, readings
from services.router.terms.folding import fold, sources
from services.router.terms.lists import TermList
from services.router.terms.phrases import LONGEST_PREFIX, Spelling, spellings
from shared.contracts.events import TermHit

MAX_HITS: Final = 20  # of a list in an item; more do not help a reviewer

_MAX_NESTED: Final = 8  # literals that end at one place of a text
_MAX_DFA: Final = 60_000  # bytes of literals: the faster automaton has up to a kilobyte for each
_ASCII_WORD: Final = frozenset(string.ascii_lowercase + string.digits)
_TITLE: Final = "title"
_TEXT: Final = "text"
_BETWEEN_FIELDS: Final = "\0"  # no phrase contains it, so no phrase is found across both fields
_NOTHING: Final = "{!r} has no character that is displayed: write a word, or remove the line"
_DISGUISES: Final = (readings.LEET, readings.SPACED)
_NO_DISGUISE: Final[frozenset[str]] = frozenset()


class Terms:
    """Compiled word lists, by name. `faults` has the phrases of which folding leaves nothing; they are never found, and
    a set that is in force may have them."""

    def __init__(self, lists: Iterable[TermList]) -> None:
        self._lists = [_CompiledList(one) for one in lists]
        self._plain = _Pass(_NO_DISGUISE)
        hidden: dict[frozenset[str], _Pass] = {}
        faults: list[TermFault] = []
        for at, one in enumerate(self._lists):
            for number, phrase in enumerate(one.source.phrases):
                plain, disguised = spellings(phrase, one.source.options)
                if not plain:
                    faults.append(TermFault(one.source.name, f"phrases/{number}", _NOTHING.format(phrase)))
                    continue
                for spelling in plain:
                    self._plain.add(_Candidate(at, number, spelling))
                key = one.source.options & readings.READ_OTHERWISE
                for spelling in disguised:
                    hidden.setdefault(key, _Pass(key)).add(_Candidate(at, number, spelling))
            for number, name in enumerate(one.source.patterns, start=len(one.source.phrases)):
                self._plain.add(_Candidate(at, number, name))
        self.faults: Sequence[TermFault] = faults
        for searched in (self._plain, *hidden.values()):
            searched.compile()
        self._hidden = list(hidden.values())

    def find(self, title: str, text: str) -> FoundTerms:
        """The lists that have a phrase in title or text, sorted by name, with the positions of the phrases."""
        folded = fold(title) + _BETWEEN_FIELDS + fold(text)
        plain = self._plain.match(folded)
        found = [_Found(self._plain, _NO_DISGUISE, folded, plain)] if plain else []
        if self._hidden:
            disguises = _disguises_of(folded)
            for one in self._hidden:
                if options := _read_with(one.options, disguises):
                    reading = readings.reading(folded, options)
                    if candidates := one.match(reading):
                        found.append(_Found(one, options, reading, candidates))
        return self._result(_Item(title, text, folded), found) if found else NOTHING_FOUND

    def _result(self, item: "_Item", found: Sequence["_Found"]) -> FoundTerms:
        possible: dict[int, list[_Possible]] = {}
        for one in found:
            for candidate in one.searched.candidates(one.candidates):
                possible.setdefault(candidate.list, []).append(_Possible(candidate, one.options, one.reading))
        phrases: dict[str, str] = {}
        located: list[TermHit] = []
        for at, own in sorted(possible.items(), key=lambda pair: self._lists[pair[0]].source.name):
            source = self._lists[at].source
            hits = self._hits(item, self._lists[at], own)
            if hits.first_phrase is None:
                continue
            phrases[source.name] = source.named(hits.first_phrase)
            located += [
                TermHit(
                    list=source.name,
                    phrase=source.named(hit.phrase),
                    field=_TEXT if hit.in_text else _TITLE,
                    start=hit.start,
                    end=hit.end,
                )
                for hit in hits.in_order
            ]
        return FoundTerms(phrases, located) if phrases else NOTHING_FOUND

    def _hits(self, item: "_Item", one: "_CompiledList", possible: Sequence["_Possible"]) -> "_Hits":
        """The first phrase of a list that is found, and its first hits.

        First in the order of phrases, until one is confirmed; then in the order of the earliest possible place, until
        no later one can be among the first hits. So a text that names thousands of phrases costs little more than one
        that names twenty.
        """
        hits = _Hits()
        pending = sorted(possible, key=lambda each: each.candidate.phrase)
        for number, each in enumerate(pending):
            self._locate(item, one, each, hits)
            if hits.first_phrase is not None:
                pending = pending[number + 1 :]
                break
        else:
            return hits
        if len(pending) == 1:
            self._locate(item, one, pending[0], hits)
            return hits
        for earliest, each in sorted(
            ((item.earliest(each), each) for each in pending), key=lambda pair: (pair[0], pair[1].candidate.phrase)
        ):
            if hits.is_beyond(earliest):
                break
            self._locate(item, one, each, hits)
        return hits

    def _locate(self, item: "_Item", one: "_CompiledList", possible: "_Possible", hits: "_Hits") -> None:
        """Add the first confirmed hits of a candidate, except those within an exception of the list."""
        candidate, options, reading = possible
        confirmed = 0
        for start, end in candidate.spans(reading):
            if confirmed >= MAX_HITS and readings.SPACED not in options:
                break
            field, begin, stop = item.original(start, end, options)
            if one.source.exceptions and item.is_excepted(one, field, begin, stop):
                continue
            original = (item.title if field == _TITLE else item.text)[begin:stop]
            if isinstance(candidate.spelling, Spelling) and not candidate.spelling.confirmed(original):
                continue
            confirmed += 1
            hits.add(_Hit(field != _TITLE, begin, stop, candidate.phrase))


_Place: TypeAlias = tuple[bool, int]  # true for the text, and characters from its start


class _Hit(NamedTuple):
    in_text: bool
    start: int
    end: int
    phrase: int


class _Hits:
    """The first hits of a list, each place once, with the first phrase that was found there."""

    def __init__(self) -> None:
        self.first_phrase: int | None = None
        self.in_order: list[_Hit] = []

    def add(self, hit: _Hit) -> None:
        if self.first_phrase is None or hit.phrase < self.first_phrase:
            self.first_phrase = hit.phrase
        at = bisect_left(self.in_order, hit[:3])
        if at < len(self.in_order) and self.in_order[at][:3] == hit[:3]:
            self.in_order[at] = min(hit, self.in_order[at])
        elif at < MAX_HITS:
            self.in_order.insert(at, hit)
            del self.in_order[MAX_HITS:]

    def is_beyond(self, place: _Place) -> bool:
        """True if no hit from this place on can be among the first ones."""
        return len(self.in_order) == MAX_HITS and place > self.in_order[-1][:2]


class _Candidate(NamedTuple):
    """A pattern of a set: index of its list, index of its phrase there, and a spelling or a kind of personal data."""

    list: int
    phrase: int
    spelling: Spelling | str

    def spans(self, reading: str) -> Iterator[tuple[int, int]]:
        if isinstance(self.spelling, str):
            yield from personal_data.PATTERNS[self.spelling].search(reading)
            return
        if not self.spelling.may_be_in(reading):
            return
        at = max(0, self.spelling.earliest(reading) - LONGEST_PREFIX)
        while found := self.spelling.exact.search(reading, at):
            yield found.span(1)
            at = max(found.end(1), at + 1)


class _Possible(NamedTuple):
    """A candidate of a list, and the reading in which it may be."""

    candidate: _Candidate
    options: frozenset[str]
    reading: str


class _Found(NamedTuple):
    """The numbers of the candidates of a pass that may be in a reading of an item."""

    searched: "_Pass"
    options: frozenset[str]
    reading: str
    candidates: Sequence[int]


class _Pass:
    """The spellings that are searched in one reading of a text.

    Aho-Corasick finds the literals of all phrases in one pass whose cost does not depend on their number. (RE2's set of
    5,000 phrases has an automaton that does not fit into its memory: docs/adr/0050.) RE2 finds personal data.
    """

    def __init__(self, options: frozenset[str]) -> None:
        self.options = options
        self._candidates: list[_Candidate] = []
        self._literals: dict[str, list[tuple[int, bool]]] = {}
        self._patterns: list[int] = []
        self._set = _new_set()

    def add(self, candidate: _Candidate) -> None:
        number = len(self._candidates)
        self._candidates.append(candidate)
        if isinstance(candidate.spelling, str):
            self._set.Add(personal_data.PATTERNS[candidate.spelling].candidate)
            self._patterns.append(number)
            return
        for literal in candidate.spelling.literals:
            self._literals.setdefault(literal.text, []).append((number, literal.starts_word))

    def compile(self) -> None:
        self._literals = _bounded(self._literals)
        small = sum(len(literal.encode()) for literal in self._literals) <= _MAX_DFA
        implementation = Implementation.DFA if small else Implementation.ContiguousNFA
        self._searched = AhoCorasick([*self._literals], implementation=implementation)
        self._numbers = [*self._literals.values()]
        if self._patterns:
            self._set.Compile()

    def match(self, reading: str) -> list[int]:
        """Numbers of the candidates, in their order."""
        found = {self._patterns[index] for index in self._set.Match(reading) or ()} if self._patterns else set[int]()
        for literal, start, _ in self._searched.find_matches_as_indexes(reading, overlapping=True):
            in_word = start > 0 and reading[start - 1] in _ASCII_WORD
            found.update(number for number, starts_word in self._numbers[literal] if not (starts_word and in_word))
        return sorted(found)

    def candidates(self, found: Iterable[int]) -> Iterator[_Candidate]:
        return (self._candidates[index] for index in found)


class _CompiledList:
    """A list whose exceptions are searched in the same way as phrases: only an exception that may be in the text is
    confirmed."""

    def __init__(self, source: TermList) -> None:
        self.source = source
        self._exceptions = _Pass(_NO_DISGUISE)
        for number, phrase in enumerate(source.exceptions):
            for part in spellings(phrase, source.options):
                for spelling in part:
                    self._exceptions.add(_Candidate(0, number, spelling))
        self._exceptions.compile()

    def exception_spans(self, reading: str) -> Iterator[tuple[int, int]]:
        """The parts of a reading that are exceptions of the list."""
        for candidate in self._exceptions.candidates(self._exceptions.match(reading)):
            if not isinstance(candidate.spelling, Spelling) or not candidate.spelling.may_be_in(reading):
                continue
            at = 0
            while found := candidate.spelling.exact.search(reading, at):
                yield found.span(1)
                at = found.start(1) + 1


class _Spans:
    """Parts of the texts of an item, from a place to another; `cover` is true if one of them contains another part."""

    def __init__(self, spans: Iterable[tuple[_Place, _Place]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        self._furthest = list(accumulate((end for _, end in ordered), max))

    def cover(self, start: _Place, end: _Place) -> bool:
        at = bisect_right(self._starts, start)
        return at > 0 and self._furthest[at - 1] >= end


class _Item:
    """The texts of an item, and the way from a position in a reading to the position in the original text."""

    def __init__(self, title: str, text: str, folded: str) -> None:
        self.title = title
        self.text = text
        self._folded = folded
        self._origins: dict[frozenset[str], Sequence[int]] = {}
        self._exceptions: dict[str, _Spans] = {}

    def is_excepted(self, one: _CompiledList, field: str, begin: int, stop: int) -> bool:
        """True if an exception of the list covers this part of the original text, in any reading of the list."""
        spans = self._exceptions.get(one.source.name)
        if spans is None:
            spans = self._exceptions[one.source.name] = _Spans(self._excepted(one))
        in_text = field != _TITLE
        return spans.cover((in_text, begin), (in_text, stop))

    def _excepted(self, one: _CompiledList) -> Iterator[tuple[_Place, _Place]]:
        for options in dict.fromkeys((_NO_DISGUISE, _read_with(one.source.options, self._disguises))):
            reading = readings.reading(self._folded, options) if options else self._folded
            for start, end in one.exception_spans(reading):
                field, begin, stop = self.original(start, end, options)
                yield (field != _TITLE, begin), (field != _TITLE, stop)

    @cached_property
    def _disguises(self) -> frozenset[str]:
        return _disguises_of(self._folded)

    def earliest(self, possible: _Possible) -> _Place:
        """A lower bound of the place of a candidate's first hit: true for the text, and start."""
        spelling = possible.candidate.spelling
        start = 0 if isinstance(spelling, str) else spelling.earliest(possible.reading)
        if start == 0:
            return False, 0
        field, begin, _ = self.original(start, start + 1, possible.options)
        return field != _TITLE, begin

    def original(self, start: int, end: int, options: frozenset[str]) -> tuple[str, int, int]:
        """Field, start and end, in characters, of a part of the reading with these options."""
        if options:
            origins = self._origins.get(options)
            if origins is None:
                origins = self._origins[options] = readings.origins(self._folded, options)
            part = origins[start:end]
            start, end = min(part), max(part) + 1
        if start < len(self._title_sources):
            sources_of, field = self._title_sources, _TITLE
        else:
            sources_of, field = self._text_sources, _TEXT
            start, end = start - len(self._title_sources) - 1, end - len(self._title_sources) - 1
        return field, sources_of[start][0], sources_of[end - 1][1]

    @cached_property
    def _title_sources(self) -> Sequence[tuple[int, int]]:
        return sources(self.title)

    @cached_property
    def _text_sources(self) -> Sequence[tuple[int, int]]:
        return sources(self.text)


def _bounded(literals: Mapping[str, list[tuple[int, bool]]]) -> dict[str, list[tuple[int, bool]]]:
    """The literals, of which at most `_MAX_NESTED` end at one place of a text.

    Candidates of a literal that ends with that many others are found by one of these: it is in each text with the
    literal. Otherwise the matches in a text would be as many as its characters times the phrases.
    """
    nested: dict[str, list[str]] = {}
    bounded: dict[str, list[tuple[int, bool]]] = {}
    for literal in sorted(literals, key=len):
        longest = next((literal[at:] for at in range(1, len(literal)) if literal[at:] in nested), None)
        chain = nested[longest] if longest is not None else []
        if len(chain) < _MAX_NESTED:
            nested[literal] = [*chain, literal]
            bounded[literal] = list(literals[literal])
        else:
            bounded[chain[-1]] += ((number, False) for number, _ in literals[literal])
    return bounded


def _read_with(options: frozenset[str], disguises: frozenset[str]) -> frozenset[str]:
    """The options with which a list with these options reads a text with these disguises; none if it has none of its
    own."""
    own = options & readings.READ_OTHERWISE
    if not own & disguises:
        return _NO_DISGUISE
    return own if readings.SPACED in disguises else own - {readings.SPACED}


def _disguises_of(text: str) -> frozenset[str]:
    """The disguises that a text may have."""
    found = {_DISGUISES[index] for index in _disguises().Match(text) or ()}
    if any(connector in text for connector in readings.CONNECTORS):
        found.add(readings.JOINED)
    return frozenset(found)


@cache
def _disguises() -> "re2.Set":
    """The patterns that tell whether a text has a disguise."""
    found = _new_set()
    found.Add(readings.DIGIT_IN_A_WORD)
    found.Add(readings.SINGLE_LETTERS)
    found.Compile()
    return found


def _new_set() -> "re2.Set":
    options = re2.Options()
    options.never_capture = True
    return re2.Set.SearchSet(options)
