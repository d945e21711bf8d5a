"""Patterns of a phrase: literals, with which candidates are found, and an exact one, which confirms and locates them.

The exact pattern decides what is a whole word. A word ends where another script begins, at any character that is not a
letter, digit or combining mark, and anywhere in scripts that are written without spaces. A combining mark never ends a
word. In Hangul, a word may have a particle.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, product
from typing import Final, NamedTuple

import regex

from services.router.terms.folding import CYRILLIC_OF, fold, fold_with_accents, looks_latin
from services.router.terms.readings import BETWEEN_WORDS, CONNECTORS, JOINED, LEET, SPACED, joined, leet, reading

INFLECTION: Final = "inflection"
PREFIXES: Final = "prefixes"
ACCENTS: Final = "accents"

_MAX_SPELLINGS: Final = 8
_MIN_INFLECTED: Final = 4  # letters of a word; one of three letters may only have an `s`
_SHORT: Final = regex.compile(r"\p{Latin}{3}")
_MIN_SPACED: Final = 3  # letters of a phrase
_MIN_SPACED_IDEOGRAPHS: Final = 2
_MIN_LEET: Final = 4
_MIN_LETTERS_IN_LEET: Final = 2  # of the text that is read as letters

_WITHOUT_SPACES: Final = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_NO_SPACES: Final = regex.compile(f"[{_WITHOUT_SPACES}]")
_SCRIPTS: Final = [
    (regex.compile(rf"\p{{{script}}}"), rf"\p{{{script}}}")
    for script in (
        "Latin",
        "Cyrillic",
        "Greek",
        "Arabic",
        "Hebrew",
        "Hangul",
        "Devanagari",
        "Bengali",
        "Tamil",
        "Telugu",
    )
]
_ANY_WORD: Final = rf"_\p{{L}}\p{{M}}\p{{N}}--[\p{{Hangul}}{_WITHOUT_SPACES}]"
_PARTICLES: Final = (
    "(?:들?(?:은|는|이|가|을|를|의|에|에서|에게|로|으로|와|과|랑|이랑|도|만|이나|나|입니다|이다|이에요|예요|요|이라고|라고|한테|조차|같은|뿐)?"
    "(?:까지도|까지|부터|처럼|보다|마다|는|은|도|만)?)"
)
_SPACE: Final = r"\s\x1c-\x1f"  # what `str.split` removes
_ASCII_WORD: Final = regex.compile(r"[a-z0-9_]")
_APOSTROPHES: Final = "'`"
_APOSTROPHE: Final = regex.compile(f"[{_APOSTROPHES}]")

# Endings of plurals and cases by script, for words of four letters or more.
_LATIN_ENDINGS: Final = (
    "s es x e n en er ern em ens nes a as i u y o os ow om ami ach ie owi ar or et na erna orna arna lar ler lari leri"
)
_LATIN_FOR_A_VOWEL: Final = "a e i o u y as es is os am om em ami ach ie ies ow or orna ar er he hi"
_CYRILLIC_ENDINGS: Final = (
    "а я о е и ы у ю ом ем ой ей ам ям ами ями ах ях ов ев ев ий ии ию ием ия ье ью ья і єю ею єм"
)
_GREEK_ENDINGS: Final = "α ασ ατα ατοσ ατων εσ ησ η ι ια ιου ιων οι οσ ου ουσ ων ο εισ"
_ARABIC_ENDINGS: Final = "ات ين ون ان ه ها"
_HEBREW_ENDINGS: Final = "ים ות י ה"
_DEVANAGARI_ENDINGS: Final = "ों ें े ी ा ियों ियां ियाँ ओं एं"
_ENDINGS: Final = (
    (regex.compile(r"[\p{Latin}\p{M}]+"), _LATIN_ENDINGS, regex.compile(r"[aeiouy]$"), _LATIN_FOR_A_VOWEL),
    (regex.compile(r"\p{Cyrillic}+"), _CYRILLIC_ENDINGS, regex.compile("[аеиоуыэюяьй]$"), _CYRILLIC_ENDINGS),
    (regex.compile(r"\p{Greek}+"), _GREEK_ENDINGS, regex.compile("(?:[αεηιουω]σ?|σ)$"), _GREEK_ENDINGS),
    (regex.compile(r"\p{Arabic}+"), _ARABIC_ENDINGS, regex.compile("ه$"), "ات"),
    (regex.compile(r"\p{Hebrew}+"), _HEBREW_ENDINGS, regex.compile("ה$"), "ות"),
    (regex.compile(r"[\p{Devanagari}]+"), _DEVANAGARI_ENDINGS, regex.compile("[ाी]$"), _DEVANAGARI_ENDINGS),
)
_IRREGULAR: Final = (
    (regex.compile(r"fe?$"), "ves"),  # knife
    (regex.compile(r"(?<=[^aeiou])y$"), "ies"),  # battery
    (regex.compile(r"ao$"), "oes"),  # munição
    (regex.compile(r"ão$"), "ões"),
    (regex.compile(r"(?<=[aeou])l$"), "is"),  # real
)
# The article, conjunctions and prepositions that are written together with a word.
_ARABIC_PREFIX: Final = "(?:[وف]?(?:[بكل]?ال|لل|[بكل])|[وف])"
_HEBREW_PREFIX: Final = "(?:ו?(?:כש|לכש|מש|ש)?[הבלמכ]?ה?)"
LONGEST_PREFIX: Final = 8  # characters, at least
_PREFIXES: Final = (
    (regex.compile(r"\p{Arabic}"), _ARABIC_PREFIX, "(?:ال)?"),
    (regex.compile(r"\p{Hebrew}"), _HEBREW_PREFIX, "ה?"),
)
_UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_CYRILLIC: Final = {letter.lower(): fold(alike) for letter, alike in CYRILLIC_OF.items()}


class PhraseLiteral(NamedTuple):
    """A text that is in every text with a spelling; with `starts_word`, an ASCII letter or digit is not before it."""

    text: str
    starts_word: bool


class Spelling:
    """One spelling of a phrase in one reading of a text: its literals and its exact pattern.

    `words` are folded. `alike` marks the spelling in letters that look like Latin ones.
    """

    def __init__(
        self, words: Sequence[str], options: frozenset[str], *, accented: Sequence[str] = (), alike: bool = False
    ) -> None:
        self._words = words
        self._options = options
        self._accented = accented
        self._alike = alike

    @cached_property
    def literals(self) -> list[PhraseLiteral]:
        """Texts of which one is in every text that the exact pattern matches; long ones, which fewer texts have."""
        if not self._constant_parts:
            return [PhraseLiteral(apostrophe, starts_word=False) for apostrophe in _APOSTROPHES]
        if not self._alike:
            return [max(self._constant_parts, key=lambda literal: len(literal.text))]
        longest = max(self._words, key=len)
        return [literal for word in {longest, _in_cyrillic(longest)} for literal in self._literals(len(word), word)]

    @cached_property
    def _constant_parts(self) -> list[PhraseLiteral]:
        parts = (part for at, word in enumerate(self._words) for part in self._literals(at, word))
        return [part for part in parts if part.text]

    def may_be_in(self, reading: str) -> bool:
        """False if a constant part of the phrase is missing; much cheaper than the exact pattern."""
        return self._alike or all(part.text in reading for part in self._constant_parts)

    def earliest(self, reading: str) -> int:
        """The first place in a reading at which the phrase may begin, without its prefix: a lower bound."""
        first = self._words[0]
        starts = {first, _in_cyrillic(first)} if self._alike else {next(self._literals(0, first)).text}
        places = [place for start in starts if (place := reading.find(start)) >= 0]
        return min(places, default=0)

    def _literals(self, at: int, word: str) -> Iterator[PhraseLiteral]:
        """The constant parts of the word at this place: between apostrophes, and before its endings."""
        start = _common_start(word) if INFLECTION in self._options and _has_endings(word) else word
        free = (at > 0 and self._options & {JOINED, SPACED}) or self._alike or LEET in self._options
        for number, part in enumerate(_APOSTROPHE.split(start)):
            yield PhraseLiteral(part, not free and number == 0 and _ASCII_WORD.match(part) is not None)

    @cached_property
    def exact(self) -> "regex.Pattern[str]":
        """The exact pattern; its group 1 is the phrase without prefix and particle."""
        first, last = self._words[0], self._words[-1]
        start, end = _start(first[0], self._options), _end(last[-1], self._options)
        if self._alike:
            start, end = (
                r"(?<![\p{Latin}\p{Cyrillic}\p{M}\p{N}])",
                r"(?![\p{Latin}\p{Cyrillic}\p{M}\p{N}])",
            )
        return regex.compile(f"{start}({self._body(self._words)}){end}", regex.V1)

    @cached_property
    def _exact_with_accents(self) -> "regex.Pattern[str]":
        return regex.compile(self._body(self._accented), regex.V1)

    def confirmed(self, original: str) -> bool:
        """True if a located text is the phrase: with its accents if they are required, and not in letters that look
        like the phrase only after folding, nor in digits only."""
        if self._alike and not looks_latin(original):
            return False
        if LEET in self._options and sum(map(str.isalpha, original)) < _MIN_LETTERS_IN_LEET:
            return False
        if not self._accented:
            return True
        accented, _, _ = reading(fold_with_accents(original), self._options).partition(BETWEEN_WORDS)
        return self._exact_with_accents.fullmatch(accented) is not None

    def _body(self, words: Iterable[str]) -> str:
        inflected = INFLECTION in self._options
        each = (_alike(word) if self._alike else _exact_word(word, inflected=inflected) for word in words)
        return self._joined(each)

    def _joined(self, words: Iterable[str]) -> str:
        """The words with what may be between them; an Arabic or Hebrew word may have the article of the word before."""
        separator = _separator(self._options)
        if PREFIXES not in self._options:
            return separator.join(words)
        first, *others = words
        with_article = (
            next((article for script, _, article in _PREFIXES if script.match(word)), "") + form
            for word, form in zip(self._words[1:], others, strict=True)
        )
        return separator.join([first, *with_article])


def spellings(phrase: str, options: frozenset[str]) -> tuple[list[Spelling], list[Spelling]]:
    """The spellings of a phrase in the folded text, and in the reading of a list with these options.

    Both are empty if nothing of the phrase is left after folding.
    """
    words = fold(phrase).split()
    if not words:
        return [], []
    plain_options = options - {SPACED, LEET}
    accented = fold_with_accents(phrase).split() if ACCENTS in options else ()
    plain = [Spelling(_words(words, plain_options), plain_options, accented=_words(accented, plain_options))]
    if ACCENTS not in options:
        plain += [Spelling(_words(other, plain_options), plain_options) for other in _with_two_letters(phrase, words)]
        if any(_writable(word) for word in words):
            plain.append(Spelling(words, plain_options - {INFLECTION}, alike=True))
    letters = sum(map(len, words))
    least = _MIN_SPACED_IDEOGRAPHS if _NO_SPACES.match(words[0]) else _MIN_SPACED
    disguises = options & {
        JOINED,
        *([SPACED] if letters >= least else ()),
        *([LEET] if letters >= _MIN_LEET else ()),
    }
    if not disguises:
        return plain, []
    read = options - {SPACED, LEET, JOINED} | disguises
    hidden = Spelling(_words(words, read), read, accented=_words(accented, read))
    return plain, [hidden]


def _with_two_letters(phrase: str, words: Sequence[str]) -> Iterable[Sequence[str]]:
    """The spellings of a phrase with `ae` for `ä`, and so on, in some or all of its words."""
    written = fold(phrase.lower().translate(_UMLAUTS)).split()
    choices = [dict.fromkeys(pair) for pair in zip(words, written, strict=False)]
    return islice(product(*choices), 1, _MAX_SPELLINGS)


def _words(words: Sequence[str], options: frozenset[str]) -> Sequence[str]:
    if LEET in options:
        words = [leet(word) if any(map(str.isalpha, word)) else word for word in words]  # a number stays a number
    if JOINED in options:
        # A word of connectors alone is a connector itself, unless the phrase has nothing else.
        words = [part for word in words if joined(word) for part in _parts(word)] or words
    return words


def _parts(word: str) -> list[str]:
    """The parts of a word between connectors; the word itself if there is none, so that it is not empty."""
    return regex.split(f"[{regex.escape(CONNECTORS)}]+", word.strip(CONNECTORS)) if joined(word) else [word]


def _separator(options: frozenset[str]) -> str:
    """The text between two words of a phrase."""
    # Possessive, because no word begins with such a character: otherwise the time would be quadratic in their number.
    if JOINED in options:
        return rf"[{_SPACE}_'`-]*+"
    return f"[{_SPACE}]*+" if SPACED in options else f"[{_SPACE}]++"


def _start(character: str, options: frozenset[str]) -> str:
    if _NO_SPACES.match(character):
        return ""
    start = f"(?<![{_continuing(character, options)}])"
    if PREFIXES in options:
        return start + "".join(f"{prefix}?" for script, prefix, _ in _PREFIXES if script.match(character))
    return start


def _end(character: str, options: frozenset[str]) -> str:
    if _NO_SPACES.match(character):
        return r"(?!\p{M})"
    particles = _PARTICLES if "\uac00" <= character <= "\ud7a3" else ""
    return f"(?={particles}(?![{_continuing(character, options)}]))"


def _continuing(character: str, options: frozenset[str]) -> str:
    """The class of characters that continue a word with this character."""
    for script, name in _SCRIPTS:
        if script.match(character):
            own = "" if name == r"\p{Hangul}" else r"\p{N}"
            return ("" if JOINED in options else "_") + rf"{name}\p{{M}}{own}"
    return _ANY_WORD.removeprefix("_") if JOINED in options else _ANY_WORD


def _exact_word(word: str, *, inflected: bool) -> str:
    escaped = _escaped(word)
    if not inflected or not _has_endings(word):
        return escaped
    if len(word) < _MIN_INFLECTED:
        return f"{escaped}s?"
    forms = [escaped]
    for script, endings, final, for_a_vowel in _ENDINGS:
        if not script.fullmatch(word):
            continue
        forms.append(f"{escaped}(?:{'|'.join(_longest_first(endings))})")
        stem = final.sub("", word)
        if stem != word and len(stem) >= _MIN_INFLECTED - 1:
            forms.append(f"{regex.escape(stem)}(?:{'|'.join(_longest_first(for_a_vowel))})")
    forms += [regex.escape(end.sub("", word)) + other for end, other in _IRREGULAR if end.search(word)]
    return f"(?:{'|'.join(reversed(forms))})"


def _has_endings(word: str) -> bool:
    return len(word) >= _MIN_INFLECTED or _SHORT.fullmatch(word) is not None


def _common_start(word: str) -> str:
    """The part of a word that all its forms have."""
    if len(word) < _MIN_INFLECTED:
        return word
    starts = [word]
    starts += [final.sub("", word) for script, _, final, _ in _ENDINGS if script.fullmatch(word)]
    starts += [end.sub("", word) for end, _ in _IRREGULAR]
    return min(starts, key=len)


def _longest_first(endings: str) -> list[str]:
    return sorted(dict.fromkeys(fold(endings).split()), key=len, reverse=True)


def _escaped(word: str) -> str:
    """A pattern of a word, in which each apostrophe stands for every apostrophe."""
    return "['`]".join(map(regex.escape, _APOSTROPHE.split(word)))


def _writable(word: str) -> bool:
    """True if a word of at least two Latin letters can be written in Cyrillic letters alone."""
    return len(word) > 1 and all(letter in _CYRILLIC for letter in word)


def _in_cyrillic(word: str) -> str:
    return "".join(_CYRILLIC[letter] for letter in word) if _writable(word) else word


def _alike(word: str) -> str:
    return f"(?:{regex.escape(word)}|{_in_cyrillic(word)})" if _writable(word) else regex.escape(word)
