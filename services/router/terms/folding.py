"""Folding: the form of a text in which phrases are compared, and the way back to the positions in the text.

Two texts that a reader takes for the same word have the same form: without characters that are not displayed, without
accents, in one case, with one apostrophe and one hyphen, and with one script per word (UTS 39 confusables). Words
repeat, so each is folded by itself, and its form is kept. Positions are computed only for a hit, by folding the words
of that text again, character by character.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import regex

from services.router.terms.confusables import LOOKALIKES

_MAX_KEPT_WORDS: Final = 100_000
_MAX_KEPT_LENGTH: Final = 32  # characters; longer words are sentences of scripts without spaces, and do not repeat

_WORDS: Final = re.compile(r"\S+")  # what `str.split` returns
_CLUSTERS: Final = regex.compile(r"\X")
_LETTERS: Final = regex.compile(r"[\p{L}\p{M}\p{N}\p{Default_Ignorable_Code_Point}]+")
# Default_Ignorable_Code_Point: soft hyphen, zero-width space and joiners, variation selectors, directional marks ...
# The Arabic tatweel only stretches a word.
_NOT_DISPLAYED: Final = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u0640]")
# Accents of alphabets, vowel points of Arabic and Hebrew, the nukta of Indic scripts; Indic vowel signs are letters.
_ACCENT: Final = regex.compile(
    r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
    r"\u093c\u09bc\u0a3c\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]"
)
_HYPHEN: Final = regex.compile(r"\p{Pd}|[\u02d7\u2043\u2212\u2796]")
_CONNECTOR: Final = regex.compile(r"\p{Pc}")
_APOSTROPHES: Final = frozenset(
    "\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u02ca\u02cb\u2018\u2019\u201a\u201b\u2032\u2035\u05f3\ua78c"
)
_NO_SPACES: Final = re.compile("[\u0e01-\u0edb\u1000-\u1021\u1780-\u17b3\u3041-\u30ff\u3400-\u9fff]")
# Characters whose form they are themselves: ASCII, ideographs, kana, Hangul, Thai and Lao, and some signs.
_OWN_FORM: Final = re.compile(
    "[\x00-@\\[-\x7f\u00b0\u00b7\u00d7\u0e01-\u0e3a\u0e3f-\u0e4f\u0e5a\u0e5b\u0e81-\u0ebd\u0ec0-\u0ecd\u201c\u201d"
    "\u3001-\u3003\u3005\u3008-\u3011\u3041-\u3096\u30a1-\u30fe\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]*"
)
_WIDE_SIGNS: Final = tuple(zip("，！？：；（）～％＋／\u3000", ",!?:;()~%+/ ", strict=True))
_LATIN: Final = regex.compile(r"\p{Latin}")
_CYRILLIC: Final = regex.compile(r"\p{Cyrillic}")
_GREEK: Final = regex.compile(r"\p{Greek}")
# Letters that Unicode does not decompose, as ICU's transform Latin-ASCII writes them, and spelling variants of Arabic
# and Persian keyboards.
_LETTERS_OF: Final[Mapping[str, str]] = {
    "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ĸ": "k", "ł": "l", "ŋ": "n", "þ": "th",
    "ŧ": "t", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه",
}  # fmt: skip
_WITH_STROKE: Final = frozenset("øđħłŧı")  # and the dotless i: another letter, if accents are required
# Compatibility decomposition would make letters of these signs, and a word before them would not end.
_SIGNS: Final[Mapping[str, str]] = {
    "״": '"',
    "™": "™",
    "℠": "℠",
    "\u0e33": "\u0e33",
    "\u0eb3": "\u0eb3",
}  # also vowels am

_LOOKALIKE_OF: Final[Mapping[str, str]] = {alike: letter for letter, alikes in LOOKALIKES.items() for alike in alikes}
_OTHER_SCRIPT: Final = regex.compile(
    r"[\p{Cyrillic}\p{Greek}" + "".join(alike for alike in _LOOKALIKE_OF if not _LATIN.match(alike)) + "]"
)
# Latin letters beside those of the other alphabets
_MIXED_WORD: Final = regex.compile(
    r"[\p{Cyrillic}\p{Greek}]++[a-z][a-z\p{Cyrillic}\p{Greek}]*+"
    r"|[a-z]++[\p{Cyrillic}\p{Greek}][a-z\p{Cyrillic}\p{Greek}]*+"
)
# A mark that letters of an alphabet do not have
_STRAY_MARK: Final = regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]\p{M}")
_ALPHABETIC: Final = regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]$")
_MARK: Final = regex.compile(r"\p{M}")
_ASCII_LETTER: Final = re.compile("[a-z]")
# The Cyrillic letters that look like a Latin one: a word of these letters alone can be read in both scripts.
CYRILLIC_OF: Final[Mapping[str, str]] = dict(zip("ABCEHIJKMOPSTXYaceijopsxy", "АВСЕНІЈКМОРЅТХУасеіјорѕху", strict=True))
_GREEK_OF: Final[Mapping[str, str]] = dict(zip("ABEZHIKMNOPTYXavioupyx", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανιουργχ", strict=True))


class _Table(dict[int, str]):
    """The form of each character, for `str.translate`; computed when it is needed first."""

    def __init__(self, *, accents: bool) -> None:
        super().__init__()
        self._accents = accents

    def __missing__(self, code: int) -> str:
        folded = self[code] = "".join(self._forms(chr(code)))
        return folded

    def _forms(self, character: str) -> Iterator[str]:
        if character in _SIGNS or character in _APOSTROPHES:
            yield _SIGNS.get(character, "'")
            return
        if character == "İ":  # the capital of i
            yield "i"
            return
        once = unicodedata.normalize("NFKD", character).casefold()
        for one in unicodedata.normalize("NFKD", once):
            if _ACCENT.match(one):
                yield one if self._accents else ""
            elif not _NOT_DISPLAYED.match(one):
                yield self._form(one)

    def _form(self, one: str) -> str:
        """The form of a displayed character that has no decomposition and no case."""
        if one in _APOSTROPHES:
            return "'"
        if _HYPHEN.match(one):
            return "-"
        if _CONNECTOR.match(one):
            return "_"
        if one.isdecimal():
            return str(unicodedata.decimal(one))
        if self._accents and one in _WITH_STROKE:
            return one
        if one in _LETTERS_OF:
            return _LETTERS_OF[one]
        return one if one.isascii() or not _LATIN.match(one) else _LOOKALIKE_OF.get(one, one).lower()


class _Words(dict[str, str]):
    """The form of each word, kept for the words that repeat."""

    def __init__(self, *, accents: bool) -> None:
        super().__init__()
        self._accents = accents

    def __missing__(self, word: str) -> str:
        folded = _fold_word(word, accents=self._accents)
        if len(word) <= _MAX_KEPT_LENGTH:
            if len(self) >= _MAX_KEPT_WORDS:
                self.clear()
            self[word] = folded
        return folded


_TABLES: Final = {accents: _Table(accents=accents) for accents in (False, True)}
_FORMS: Final = {accents: _Words(accents=accents) for accents in (False, True)}
_form: Final = _FORMS[False].__getitem__


def fold(text: str) -> str:
    """The form of a text in which phrases are compared; an ASCII text keeps its length and its spaces."""
    if text.isascii():
        return text.lower()
    if (form := _without_folding(text)) is not None:
        return form
    return " ".join(map(_form, text.split()))


def fold_with_accents(text: str) -> str:
    """The form for a list that requires accents: as `fold`, but accents stay."""
    return text.lower() if text.isascii() else " ".join(map(_FORMS[True].__getitem__, text.split()))


def sources(text: str) -> Sequence[tuple[int, int]]:
    """For each character of `fold(text)`, the start and end of its source in `text` (offsets in characters)."""
    if text.isascii() or _without_folding(text) is not None:
        return [(at, at + 1) for at in range(len(text))]
    found: list[tuple[int, int]] = []
    end = None
    for word in _WORDS.finditer(text):
        if end is not None:
            found.append((end, word.start()))
        end = word.end()
        found += [(word.start() + start, word.start() + end) for start, end in _word_sources(word[0])]
    return found


def latin_letters(text: str) -> str:
    """A reading in which words of Latin letters and others that look like them are Latin; its length stays.

    Words are folded before their letters are joined: only then do they have letters of two scripts.
    """
    return text if text.isascii() else _MIXED_WORD.sub(_latin_word, text)


def _latin_word(word: "regex.Match[str]") -> str:
    letters = [_as_latin(letter) for letter in word[0]]
    return "".join(map(str, letters)) if all(letter and len(letter) == 1 for letter in letters) else word[0]


def looks_latin(text: str) -> bool:
    """True if every letter of a text is Latin or looks like a Latin letter of its case."""
    return all(_as_latin(character) is not None for character in text)


def _without_folding(text: str) -> str | None:
    """The form of a text in scripts without spaces, if only letter case and wide signs change; otherwise None.

    Their texts have no words that repeat, and most of their characters are their own form.
    """
    if not _NO_SPACES.search(text):
        return None
    form = text.lower()
    for wide, narrow in _WIDE_SIGNS:
        form = form.replace(wide, narrow)
    own = _OWN_FORM.fullmatch(form) and not _STRAY_MARK.search(form) and unicodedata.is_normalized("NFC", form)
    return form if own else None


def _fold_word(word: str, *, accents: bool) -> str:
    if accents:
        word = unicodedata.normalize("NFC", word)
    folded = word.translate(_TABLES[accents])
    if _mixes_scripts(word, folded) or _STRAY_MARK.search(folded):
        folded = "".join(_forms(word, accents=accents))
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded)


def _mixes_scripts(word: str, folded: str) -> bool:
    """True if a word has Latin letters and letters of another script that may look like them, as it is or folded."""
    if word.isascii():
        return False
    mixed = _OTHER_SCRIPT.search(word) or _OTHER_SCRIPT.search(folded)
    return mixed is not None and _ASCII_LETTER.search(folded) is not None


def _forms(word: str, *, accents: bool) -> list[str]:
    """The form of each character of a word; a part with letters of two scripts that can be read in one is so read."""
    table = _TABLES[accents]
    forms = [table[ord(character)] for character in word]
    for part in _LETTERS.finditer(word):
        own = slice(*part.span())
        if _mixes_scripts(part[0], "".join(forms[own])):
            forms[own] = _in_one_script(part[0]) or forms[own]
    return _without_stray_marks(forms)


def _without_stray_marks(forms: list[str]) -> list[str]:
    """The forms without marks of other scripts on letters of an alphabet, which no language writes."""
    alphabetic = False
    for at, form in enumerate(forms):
        if _MARK.fullmatch(form):
            if alphabetic and not _ACCENT.match(form):
                forms[at] = ""
        elif form:
            alphabetic = _ALPHABETIC.search(form) is not None
    return forms


def _in_one_script(letters: str) -> list[str] | None:
    """The letters in one script, None if that is not possible.

    Cyrillic comes first: a Latin phrase that can be written in Cyrillic letters alone is also searched so.
    """
    for read in (_as_cyrillic, _as_latin, _as_greek):
        forms = [read(character) for character in letters]
        if None not in forms:
            return [form or "" for form in forms]
    return None


def _as_latin(character: str) -> str | None:
    return _read(character, _LOOKALIKE_OF, _LATIN)


def _as_cyrillic(character: str) -> str | None:
    return _read(character, CYRILLIC_OF, _CYRILLIC)


def _as_greek(character: str) -> str | None:
    return _read(character, _GREEK_OF, _GREEK)


def _read(character: str, alike: Mapping[str, str], script: "regex.Pattern[str]") -> str | None:
    """The form of a character as a letter of a script; None if it does not look like one."""
    forms: list[str] = []
    for one in unicodedata.normalize("NFKD", character):
        if one.isdecimal() or not one.isalnum() or script.match(one):
            forms.append(_TABLES[False][ord(one)])
        elif one in alike:
            forms.append(_TABLES[False][ord(alike[one])])
        else:
            return None
    return "".join(forms)


def _word_sources(word: str) -> Iterator[tuple[int, int]]:
    """For each character of the form of a word, its source; characters that compose to one have a common source."""
    forms = _forms(word, accents=False)
    origin = [at for at, form in enumerate(forms) for _ in form]
    starts = [at for at, form in enumerate(forms) if form]
    following = dict(pairwise([*starts, len(word)]))  # accents and characters without a form belong to the one before
    for cluster in _CLUSTERS.finditer("".join(forms)):
        composed = unicodedata.normalize("NFC", cluster[0])
        if len(composed) == len(cluster[0]):
            yield from ((origin[at], following[origin[at]]) for at in range(cluster.start(), cluster.end()))
        else:
            end = following[origin[cluster.end() - 1]]
            yield from ((origin[cluster.start()], end) for _ in composed)
