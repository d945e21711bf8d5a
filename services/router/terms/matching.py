"""Word lists: finds all lists with a phrase in a title or a text, in one pass, and locates the phrases.

Text and phrases are compared in a folded form (`folding`). Aho-Corasick finds candidates in one linear pass, whatever
the number of phrases; an exact pattern confirms and locates the few candidates (`phrases`). A second pass, over a
reading without disguises (`readings`), is made only if a list enables it and the text has one. The result depends on
the texts and the lists only, so the same item always gives the same case.
"""

import string
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate
from typing import Final, NamedTuple

import re2
import regex
from ahocorasick_rs import AhoCorasick, Implementation

from services.router.domain.routing import NOTHING_FOUND, FoundTerms, TermFault
from services.router.terms import personal_data, readings
from services.router.terms.folding import fold, sources
from services.router.terms.lists import TermList
from services.router.terms.phrases import Spelling, spellings
from shared.contracts.events import TermHit

MAX_HITS: Final = 20  # of a list in an item; more do not help a reviewer

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
        found = self._plain.match(folded)
        others: list[tuple[_Pass, frozenset[str], str, list[int]]] = []
        if self._hidden:
            disguises = _disguises_of(folded)
            for one in self._hidden:
                if disguises & one.options:
                    options = one.options if readings.SPACED in disguises else one.options - {readings.SPACED}
                    reading = readings.reading(folded, options)
                    if candidates := one.match(reading):
                        others.append((one, options, reading, candidates))
        if not found and not others:
            return NOTHING_FOUND
        item = _Item(title, text, folded)
        hits: dict[int, list[_Hit]] = {}
        for candidate in self._plain.candidates(found):
            self._locate(item, folded, _NO_DISGUISE, candidate, hits)
        for one, options, reading, candidates in others:
            for candidate in one.candidates(candidates):
                self._locate(item, reading, options, candidate, hits)
        return self._result(hits)

    def _locate(
        self,
        item: "_Item",
        reading: str,
        options: frozenset[str],
        candidate: "_Candidate",
        hits: dict[int, list["_Hit"]],
    ) -> None:
        """Add the confirmed hits of a candidate, except those within an exception of the list."""
        one = self._lists[candidate.list]
        own = hits.setdefault(candidate.list, [])
        for start, end in candidate.spans(reading):
            if len(own) >= MAX_HITS * 4:
                break
            if one.source.exceptions and item.is_excepted(one, reading, options, start, end):
                continue
            field, begin, stop = item.original(start, end, options)
            original = (item.title if field == _TITLE else item.text)[begin:stop]
            if isinstance(candidate.spelling, Spelling) and not candidate.spelling.confirmed(
                original, reading[start:end]
            ):
                continue
            own.append(_Hit(field != _TITLE, begin, stop, candidate.phrase))

    def _result(self, hits: Mapping[int, Sequence["_Hit"]]) -> FoundTerms:
        phrases: dict[str, str] = {}
        located: list[TermHit] = []
        for at, own in sorted(hits.items(), key=lambda pair: self._lists[pair[0]].source.name):
            if not own:
                continue
            one = self._lists[at].source
            phrases[one.name] = one.named(min(hit.phrase for hit in own))
            located += [
                TermHit(
                    list=one.name,
                    phrase=one.named(hit.phrase),
                    field=_TEXT if hit.in_text else _TITLE,
                    start=hit.start,
                    end=hit.end,
                )
                for hit in _once(own)[:MAX_HITS]
            ]
        return FoundTerms(phrases, located) if phrases else NOTHING_FOUND


class _Hit(NamedTuple):
    in_text: bool
    start: int
    end: int
    phrase: int


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
        at = 0
        while found := self.spelling.exact.search(reading, at):
            yield found.span(1)
            at = max(found.end(1), at + 1)


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
    def __init__(self, source: TermList) -> None:
        self.source = source

    @cached_property
    def _exceptions(self) -> "list[regex.Pattern[str]]":
        options = self.source.options
        found = [
            spelling for phrase in self.source.exceptions for part in spellings(phrase, options) for spelling in part
        ]
        return [spelling.exact for spelling in found]

    def exception_spans(self, reading: str) -> "_Spans":
        """The parts of a reading that are exceptions of the list."""
        spans: list[tuple[int, int]] = []
        for exception in self._exceptions:
            at = 0
            while found := exception.search(reading, at):
                spans.append(found.span(1))
                at = found.start(1) + 1
        return _Spans(spans)


class _Spans:
    """Parts of a text; `cover` is true if one of them contains another part."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        self._furthest = list(accumulate((end for _, end in ordered), max))

    def cover(self, start: int, end: int) -> bool:
        at = bisect_right(self._starts, start)
        return at > 0 and self._furthest[at - 1] >= end


class _Item:
    """The texts of an item, and the way from a position in a reading to the position in the original text."""

    def __init__(self, title: str, text: str, folded: str) -> None:
        self.title = title
        self.text = text
        self._folded = folded
        self._origins: dict[frozenset[str], Sequence[int]] = {}
        self._exceptions: dict[tuple[str, frozenset[str]], _Spans] = {}

    def is_excepted(self, one: _CompiledList, reading: str, options: frozenset[str], start: int, end: int) -> bool:
        """True if an exception of the list covers this part of the reading with these options."""
        key = one.source.name, options
        spans = self._exceptions.get(key)
        if spans is None:
            spans = self._exceptions[key] = one.exception_spans(reading)
        return spans.cover(start, end)

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


def _once(hits: Iterable[_Hit]) -> list[_Hit]:
    """Hits by position, each place once: with the first phrase of the list that was found there."""
    first: dict[tuple[bool, int, int], _Hit] = {}
    for hit in sorted(hits):
        first.setdefault(hit[:3], hit)
    return list(first.values())


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
