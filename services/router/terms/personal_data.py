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
    r"[\p{L}\p{N}][\p{L}\p{N}._%+-]{0,63}\s?(?:@|[(\[{]\s?(?:at|@)\s?[)\]}])\s?"
    r"((?:[\p{L}\p{N}-]{1,63}\s?(?:\.|[(\[{]\s?(?:dot|punkt|\.)\s?[)\]}])\s?){1,4})(\p{L}{2,24})(?![\p{L}\p{N}])"
)
# A number with its unit is no domain (4k@60hz.hdmi, @ f2.8.sharp), except before one of these (163.com).
_QUANTITY: Final = regex.compile(r"(?:[0-9]+[a-z]{0,2}|f[0-9]+)\s?\W.*")
_AFTER_NUMBERS: Final = frozenset(
    ["com", "net", "org", "info", "cn", "de", "es", "eu", "fr", "it", "nl", "pl", "ru", "se", "uk"]
)
_GAP: Final = r"\s{0,3}[.-]?\s{0,3}"
_IBAN: Final = regex.compile(
    rf"(?<![\p{{L}}\p{{N}}])[a-z]{{2}}[0-9]{{2}}(?:{_GAP}[a-z0-9]){{11,30}}(?![\p{{L}}\p{{N}}])"
)
_PHONE: Final = regex.compile(r"(?<![\p{L}\p{N}+])(?:\+|00)[1-9](?:[\s./()-]{0,3}[0-9]){6,14}(?![\p{L}\p{N}])")
_SHORTEST_IBAN: Final = 15
_SHORTEST_PHONE: Final = 8


class Pattern(NamedTuple):
    """A kind of personal data: RE2's pattern for candidates, and the search for valid ones in a folded text."""

    candidate: str
    search: Callable[[str], Iterator[tuple[int, int]]]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for found in _EMAIL.finditer(text):
        if found[2] in _AFTER_NUMBERS or not _QUANTITY.fullmatch(found[1]):
            yield found.span()


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    return _valid(text, _IBAN, _SHORTEST_IBAN, _is_iban)


def _phones(text: str) -> Iterator[tuple[int, int]]:
    return _valid(text, _PHONE, _SHORTEST_PHONE, _is_phone)


def _valid(
    text: str, pattern: "regex.Pattern[str]", shortest: int, is_valid: Callable[[str], bool]
) -> Iterator[tuple[int, int]]:
    """The longest valid number at each place: other numbers may follow one that is written in groups, and a word that
    looks like its beginning may be before it."""
    at = 0
    while found := pattern.search(text, at):
        start = found.start()
        at = start + 1
        for end in range(found.end(), start + shortest - 1, -1):
            if text[end - 1].isalnum() and not text[end : end + 1].isalnum() and is_valid(text[start:end]):
                yield start, end
                at = end
                break


def _is_iban(written: str) -> bool:
    return iban.is_valid("".join(filter(str.isalnum, written)))


def _is_phone(written: str) -> bool:
    """True for a number that is valid in its country; without a sign or a gap it is more often an article number."""
    if written.isdecimal():
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse("+" + " ".join(written.lstrip("+0").split())))
    except phonenumbers.NumberParseException:
        return False


PATTERNS: Final[Mapping[str, Pattern]] = {
    EMAIL: Pattern(r"@|[(\[{]\s?at\s?[)\]}]", _emails),
    IBAN: Pattern(r"\b[a-z]{2}[0-9]{2}\s{0,3}[.-]?\s{0,3}[a-z0-9]", _ibans),
    PHONE: Pattern(r"(?:\+|\b00)[1-9]", _phones),
}
