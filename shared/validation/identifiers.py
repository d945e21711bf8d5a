"""The rule for ids that callers choose: one id has one spelling, so that a person can tell two ids apart.

The rule applies where an id is created. A reference to an existing object is compared as it is, because ids that were
accepted before this rule stay valid. Nothing is normalized silently: the caller must find its id unchanged in events.
"""

from typing import Final
from unicodedata import category, is_normalized

# Printable for Python, but shown as nothing or as a blank: fillers of Hangul, an empty Braille pattern, a null notehead
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\U0001d159")
_MARKS: Final = frozenset({"Mn", "Me"})  # change the character before them, or are invisible


def identifier_problem(text: str) -> str | None:
    """The fault of a new id, None for a valid one."""
    if not text.isprintable():
        return "expected printable characters only"
    if text[:1] == " " or text[-1:] == " ":  # other white space is not printable
        return "begins or ends with a space; leave the space out"
    if not text.isascii() and not is_normalized("NFC", text):
        return "not in Unicode normalization form C (NFC); normalize it, so that 'é' is one character and not two"
    if text in (".", ".."):
        return "'.' and '..' are no ids: clients remove them from the path of a URL"
    if not text.isascii() and not any(map(_is_visible, text)):
        return "has no visible character"
    return None


def _is_visible(character: str) -> bool:
    return character != " " and character not in _BLANK and category(character) not in _MARKS
