"""Readings of a folded text without the letters' disguises: joined and spaced letters, and digits in place of letters.

A list enables them. A reading is made only for a text that has such a disguise; the plain text is searched in any case.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import regex

from services.router.terms.folding import latin_letters

JOINED: Final = "joined"
SPACED: Final = "spaced"
LEET: Final = "leet"
READ_OTHERWISE: Final = frozenset({JOINED, SPACED, LEET})

CONNECTORS: Final = "-_'`"
_REMOVED: Final = str.maketrans("", "", CONNECTORS)
_ALIKE: Final = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g", "l": "i"}
_SIGNS: Final = {"@": "a", "$": "s", "!": "i", "|": "i", "€": "e", "£": "i", "¡": "i"}
_LETTERS_OF_DIGITS: Final = str.maketrans(_ALIKE)
# Before a letter or digit, inside a word also in a row; at the end of a word one or two that do not end a sentence.
_SIGN_IN_A_WORD: Final = regex.compile(
    r"[@$!|€£¡](?=\w)|(?<=\w[@$!|€£¡]{0,2})[@$!|€£¡](?=[@$!|€£¡]{0,2}\w)"
    r"|(?<=\p{L})[@$€£](?![@$!|€£¡]{0,2}\w)(?![@$€£]{2})|(?<=\p{L}[@$€£])[@$€£](?![@$!|€£¡]*\w)(?![@$€£])"
)
# Three letters, or two ideographs.
_SINGLE_LETTERS: Final = regex.compile(
    r"(?<![\p{L}\p{M}\p{N}])(?:[\p{L}\p{N}@$!](?:[\s.,:*~·•|/+_-]{1,4}[\p{L}\p{N}@$!](?![\p{L}\p{M}\p{N}])){2,}"
    r"|\p{Han}[\s.*~·•|/_-]{1,4}\p{Han}(?![\p{L}\p{M}\p{N}]))"
)
_DIGIT_BESIDE_CYRILLIC: Final = regex.compile(r"(?<=\p{Cyrillic})[034]|[034](?=\p{Cyrillic})")
_CYRILLIC_DIGITS: Final = {"0": "о", "3": "з", "4": "ч"}
BETWEEN_WORDS: Final = "\0"  # no phrase contains it
_MAX_NEIGHBOURS: Final = 3  # single letters and digits before or after a word, which do not belong to it
_BETWEEN: Final = frozenset(" \t\n\r\v\f.,:*~·•|/+_-")
# RE2's forms of the two patterns: they find whether a text needs a reading.
DIGIT_IN_A_WORD: Final = r"\pL[0-9@$!|€£¡]|[0-9@$!|€£¡]\pL"
SINGLE_LETTERS: Final = (
    r"(?:^|[^\pL\pM\pN])(?:[\pL\pN@$!](?:[\s.,:*~·•|/+_-]{1,4}[\pL\pN@$!]){2}|\p{Han}[\s.*~·•|/_-]{1,4}\p{Han})"
    r"(?:$|[^\pL\pM\pN])"
)


def leet(word: str) -> str:
    """A word with the letters that its digits and signs stand for; `l` and `i` become one letter."""
    if not word.isascii():
        word = _DIGIT_BESIDE_CYRILLIC.sub(lambda digit: _CYRILLIC_DIGITS[digit[0]], word)
    if any(sign in word for sign in _SIGNS):
        word = _SIGN_IN_A_WORD.sub(lambda sign: _SIGNS[sign[0]], word)
    return word.translate(_LETTERS_OF_DIGITS)


def joined(word: str) -> str:
    """A word without hyphens, underscores and apostrophes."""
    return word.translate(_REMOVED)


def reading(text: str, options: Iterable[str]) -> str:
    """A folded text as a list with these options reads it."""
    if SPACED in options:
        text = "".join(character for character, _ in _without_gaps(text))
    if LEET in options:
        text = leet(text)
    return latin_letters(joined(text) if JOINED in options else text)


def origins(text: str, options: Iterable[str]) -> Sequence[int]:
    """For each character of `reading(text, options)`, its offset in the folded text."""
    read = _without_gaps(text) if SPACED in options else list(zip(text, range(len(text)), strict=True))
    return [offset for character, offset in read if JOINED not in options or character not in CONNECTORS]


def _without_gaps(text: str) -> list[tuple[str, int]]:
    """The characters of a text in which each sequence of single letters is a word, with their offsets in the text.

    At the end, each such word is repeated without its neighbours at the start, at the end, and at both: one letter, or
    two or three of which one is a digit ("a g u n", "2 x g u n"). More would find `gun` in "g u n s h i p". If the gaps
    differ, the parts between the wider ones follow: "n e w: g u n" has the words `newgun`, `new` and `gun`.
    """
    found: list[tuple[str, int]] = []
    repeated: list[tuple[str, int]] = []
    end = 0
    for run in _SINGLE_LETTERS.finditer(text):
        found += ((text[at], at) for at in range(end, run.start()))
        letters = [(text[at], at) for at in range(*run.span()) if text[at] not in _BETWEEN]
        words = _words(letters)
        gap = BETWEEN_WORDS, run.start()
        found += letters
        word = "".join(letter for letter, _ in letters)
        for first in _neighbours(word):
            for last in _neighbours(word[::-1]):
                if 0 < first + last < len(word) - 1:
                    repeated += [gap, *letters[first : len(word) - last]]
        if len(words) > 1:
            repeated += [part for one in words for part in (gap, *one)]
        end = run.end()
    return [*found, *((text[at], at) for at in range(end, len(text))), *repeated]


def _words(letters: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """The words of a sequence of single letters, of which the gaps between words are wider than those inside."""
    gaps = [after[1] - before[1] for before, after in pairwise(letters)]
    found = [[letters[0]]]
    for gap, letter in zip(gaps, letters[1:], strict=True):
        if gap > min(gaps):
            found.append([])
        found[-1].append(letter)
    return found


def _neighbours(word: str) -> list[int]:
    """The numbers of characters at the start of a sequence of single letters that may not belong to its word."""
    return [0, 1, *(n for n in range(2, _MAX_NEIGHBOURS + 1) if any(map(str.isdecimal, word[:n])))]
