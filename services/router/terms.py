"""Word lists: finds all lists with a phrase in a text, in one pass.

Phrases are literal whole words, case-insensitive, in any script: text and phrases are NFKC-normalised and case-folded.
Google's RE2 finds candidates in one linear pass, whatever the number of phrases. RE2's word boundary knows ASCII only,
so Python's Unicode-aware pattern confirms the few candidates. Scripts written without spaces have no word boundaries.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

import re2

_MAX_MEMORY: Final = 32 * 1024 * 1024
_WITHOUT_SPACES: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_ASCII_WORD: Final = re.compile(r"[A-Za-z0-9_]")
_SPACE: Final = r"[\s\v\x1c-\x1f\x{85}\pZ]+"  # equals Python's \s, in RE2's syntax


class Terms:
    """Compiled word lists, by name; raises ValueError for an empty phrase or lists that are too large."""

    def __init__(self, lists: Mapping[str, Sequence[str]]) -> None:
        options = re2.Options()
        options.max_mem = _MAX_MEMORY
        options.never_capture = True
        self._set = re2.Set.SearchSet(options)
        self._confirm: list[tuple[str, str, re.Pattern[str]]] = []
        for name, phrases in lists.items():
            for phrase in phrases:
                words = fold(phrase).split()
                if not words:
                    raise ValueError(f"list {name!r} has a phrase of spaces only: {phrase!r}")
                self._set.Add(_candidate(words))
                self._confirm.append((name, phrase, _exact(words)))
        if self._confirm:
            try:
                self._set.Compile()
            except re2.error as error:
                raise ValueError(f"the word lists together are too large: {len(self._confirm)} phrases") from error

    def find(self, text: str) -> dict[str, str]:
        """The lists that have a phrase in `text`, sorted by name, each with the first of its phrases that was found."""
        if not self._confirm:
            return {}
        folded = fold(text)
        candidates = self._set.Match(folded)
        if not candidates:
            return {}
        found: dict[str, str] = {}
        for index in sorted(candidates):  # in the order of the phrases, so that the same text gives the same result
            name, phrase, exact = self._confirm[index]
            if name not in found and exact.search(folded):
                found[name] = phrase
        return dict(sorted(found.items()))


def fold(text: str) -> str:
    """Normalise a text for comparison: NFKC and case folding (Unicode 3.13, compatibility caseless matching)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _candidate(words: Sequence[str]) -> str:
    """RE2's pattern; it matches wherever `_exact` matches, and sometimes more."""
    body = _SPACE.join(re2.escape(word) for word in words)
    start = r"\b" if _ASCII_WORD.match(words[0][0]) else ""
    end = r"\b" if _ASCII_WORD.match(words[-1][-1]) else ""
    return start + body + end


def _exact(words: Sequence[str]) -> re.Pattern[str]:
    body = r"\s+".join(re.escape(word) for word in words)
    start = "" if _WITHOUT_SPACES.match(words[0][0]) else r"(?<!\w)"
    end = "" if _WITHOUT_SPACES.match(words[-1][-1]) else r"(?!\w)"
    return re.compile(start + body + end)
