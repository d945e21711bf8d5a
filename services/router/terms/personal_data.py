"""Personal data in a text: e-mail addresses, phone numbers in international form, and IBANs with a valid check number.

A list enables them with `patterns`. RE2 finds candidates in the same pass as phrases; libraries validate them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import phonenumbers
import regex
from stdnum import iban

EMAIL: Final = "email"
PHONE: Final = "phone"
IBAN: Final = "iban"

_EMAIL: Final = regex.compile(
    r"[\p{L}\p{N}][\p{L}\p{N}._%+-]{0,63}\s?(?:@|[(\[]\s?(?:at|@)\s?[)\]])\s?"
    r"(?:[\p{L}\p{N}-]{1,63}\s?(?:\.|[(\[]\s?(?:dot|punkt|\.)\s?[)\]])\s?){1,4}\p{L}{2,24}(?![\p{L}\p{N}])"
)
_IBAN: Final = regex.compile(r"(?<![\p{L}\p{N}])[a-z]{2}[0-9]{2}(?:[ .-]?[a-z0-9]){11,30}(?![\p{L}\p{N}])")
_PHONE: Final = regex.compile(r"(?<![\p{L}\p{N}+])(?:\+|00)[1-9](?:[ ./()-]{0,3}[0-9]){6,14}(?![\p{L}\p{N}])")


class Pattern(NamedTuple):
    """A kind of personal data: RE2's pattern for candidates, and the search for valid ones in a folded text."""

    candidate: str
    search: Callable[[str], Iterator[tuple[int, int]]]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (found.span() for found in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for found in _IBAN.finditer(text):
        # Words may follow a number that is written in groups: the longest valid number counts.
        for end in range(found.end(), found.start() + 14, -1):
            if (
                text[end - 1].isalnum()
                and not text[end : end + 1].isalnum()
                and iban.is_valid(text[found.start() : end])
            ):
                yield found.start(), end
                break


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for found in _PHONE.finditer(text):
        if found[0].isdecimal():  # without a sign or a gap it is more often an article number (GTIN)
            continue
        number = "+" + found[0].lstrip("+0")
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number)):
                yield found.span()
        except phonenumbers.NumberParseException:
            continue


PATTERNS: Final[Mapping[str, Pattern]] = {
    EMAIL: Pattern(r"@|[(\[]\s?at\s?[)\]]", _emails),
    IBAN: Pattern(r"\b[a-z]{2}[0-9]{2}[ .-]?[a-z0-9]", _ibans),
    PHONE: Pattern(r"(?:\+|\b00)[1-9]", _phones),
}
