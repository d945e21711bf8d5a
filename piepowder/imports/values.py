"""The values of an item's fields, as intake accepts them: each function returns the value or raises ValueError with
the reason. One meaning has one spelling."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import langcodes
import pycountry
from stdnum import ean

from piepowder.imports.rows import DateText, Number, SeveralValues, quoted, uncertainty
from shared.validation.identifiers import identifier_problem

MAX_ATTRIBUTE: Final = 5_000
MAX_ATTRIBUTES: Final = 200
MAX_MEDIA: Final = 100
MAX_URL: Final = 2_048
MAX_CATEGORY_LEVELS: Final = 10
MAX_VERSION: Final = 2**53 - 1
MAX_MARKETS: Final = 50
MAX_BODY: Final = 256 * 1024

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_UNDECODED: Final = 0xDC00  # a byte that the encoding does not have; the handler `surrogateescape` adds this
_WITH_POINT: Final = re.compile(r"([0-9]{8,14})\.0+")  # a GTIN that was written as a float
_SHORTENED: Final = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+", re.IGNORECASE)
_FORMULA_TEXT: Final = re.compile(r'="([^"]*)"')
_TAG: Final = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_URL_START: Final = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)
_URL: Final = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#][^\s,;|/]*(?:/[^\s,;|/]+)*/?")
"""A URL that is certainly only one."""
_SPACE: Final = re.compile(r"\s")
_PICTURE: Final = r"\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|svg)"
_SEVERAL_URLS: Final = re.compile(
    rf"(?<![/=?&#])https?://|[,;|^]//|{_PICTURE}[,;|^:\\][^?#]*{_PICTURE}(?=[?#]|$)", re.IGNORECASE
)
"""A second URL in one: after another character than those of a path or query, without a scheme, or a file name. The
path or query of a proxy may contain a URL."""
_BETWEEN_URLS: Final = re.compile(r"[\s,;|]+(?=[Hh][Tt][Tt][Pp][Ss]?://)")
_BETWEEN_CODES: Final = re.compile(r"[\s,;/|]+")
_NO_GTIN: Final = frozenset(
    """does not apply|doesn't apply|doesnotapply|does_not_apply|not applicable|not available|n/a|na|n.a.|none|null|nil|
    unknown|no|no gtin|no ean|no upc|no barcode|no identifier|gtin exempt|gtinexempt|exempt|-|--|---|—|/|#n/a|
    nicht zutreffend|trifft nicht zu|entfällt|keine|kein|keine angabe|k.a.|k. a.|ohne|unbekannt|
    non applicable|ne s'applique pas|no aplica|no aplicable|non applicabile|non disponibile|n.v.t.|nvt|
    niet van toepassing|nie dotyczy|brak|não se aplica|ej tillämpligt|saknas""".replace("\n    ", "").split("|")
)


def protected(text: str) -> str:
    """A text without the formula around it that keeps a spreadsheet program from changing it: `="0012"` is `0012`."""
    formula = _FORMULA_TEXT.fullmatch(text)
    return text if formula is None else formula[1]


def identifier(text: str) -> str:
    """The id of an item or seller."""
    if reason := uncertainty(text):
        raise ValueError(reason)
    bare = _whole(text) if isinstance(text, Number) else protected(text)
    if (problem := identifier_problem(bare)) is not None:
        raise ValueError(problem)
    if _SHORTENED.fullmatch(bare):
        raise ValueError(
            f"{quoted(bare)} was shortened by a spreadsheet; format its column as text and export it again"
        )
    return bare


def _whole(number: Number) -> str:
    if number.shown_as:
        raise ValueError(f"{number!s:.60} is shown with the format {quoted(number.shown_as)}; write the id as text")
    if len(number.lstrip("-0").replace(".", "")) > 15:
        raise ValueError(
            f"{number!s:.60} has more than 15 digits, of which a spreadsheet keeps only 15; write the id as text"
        )
    return str(number)


def gtin(text: str) -> str | None:
    """A GTIN in its shortest form (8, 12, 13 or 14 digits, no hyphens and spaces); None if the text says that there is
    none, such as `Does not apply`.

    Source: GS1 General Specifications, sections 3.3 and 7.9: a shorter GTIN with zeros before it is the same GTIN.
    """
    if reason := uncertainty(text):
        raise ValueError(reason)
    if is_no_gtin(text):
        return None
    digits = text if text.isdigit() else ean.compact(protected(text.removeprefix("'")))
    if "." in digits:
        digits = _WITH_POINT.sub(r"\1", digits)
    if _SHORTENED.fullmatch(digits):
        raise ValueError(f"{digits!r} was shortened by a spreadsheet; format its column as text and export it again")
    if not (digits.isascii() and digits.isdigit()) or len(digits) not in (8, 12, 13, 14):
        lost = ", and a spreadsheet may have removed zeros before it" if re.fullmatch("[0-9]{6,13}", digits) else ""
        raise ValueError(
            f"{quoted(text, 40)} is not a GTIN: expected 8, 12, 13 or 14 digits (0 to 9){lost}; correct it, or leave"
            " the cell empty"
        )
    if not digits.strip("0"):
        raise ValueError(f"{quoted(text, 40)} is not a GTIN: all of its digits are 0")
    expected = ean.calc_check_digit(digits[:-1])
    if digits[-1] != expected:
        raise ValueError(f"{quoted(text, 40)} has a wrong check digit: expected {expected} at the end")
    for longer, shorter in ((14, 13), (13, 12)):
        if len(digits) == longer and digits.startswith("0"):
            digits = digits[-shorter:]
    return digits[-8:] if len(digits) == 12 and digits.startswith("0000") else digits


def is_no_gtin(text: str) -> bool:
    """True if the text says that there is no GTIN."""
    return not text[:1].isdigit() and " ".join(text.casefold().replace("’", "'").split()) in _NO_GTIN


@lru_cache(maxsize=4096)
def language(text: str) -> str:
    """A language tag in the spelling of BCP 47: `nl-nl` and `NL_nl` are `nl-NL`."""
    tag = text.replace("_", "-")
    if _TAG.fullmatch(tag) is None or not langcodes.tag_is_valid(tag):
        raise ValueError(f"{quoted(text)} is not a language tag (BCP 47); expected for example 'de' or 'pt-BR'")
    return langcodes.standardize_tag(tag)


@lru_cache(maxsize=4096)
def country(text: str) -> str:
    """A country (ISO 3166-1 alpha-2)."""
    if len(text) != 2 or pycountry.countries.get(alpha_2=text.upper()) is None:
        hint = "; the code of the United Kingdom is GB" if text.upper() == "UK" else ""
        raise ValueError(f"{quoted(text, 40)} is not a country code (ISO 3166-1 alpha-2), such as DE{hint}")
    return text.upper()


@lru_cache(maxsize=4096)
def markets(text: str) -> tuple[str, ...]:
    """Distinct markets, as countries."""
    found = tuple(dict.fromkeys(country(code) for code in _BETWEEN_CODES.split(text) if code))
    if not found or len(found) > MAX_MARKETS:
        raise ValueError(f"{quoted(text)} has {len(found)} markets; expected 1 to {MAX_MARKETS}")
    return found


def version(text: str) -> int:
    """A version of an item."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= MAX_VERSION:
        raise ValueError(f"{quoted(text, 40)} is not a whole number from 1 to {MAX_VERSION}")
    return int(text)


def media(cells: Sequence[str]) -> list[str]:
    """The distinct URLs in the cells. Comma, semicolon, pipe and white space separate them; inside a URL, they are part
    of it."""
    for cell in cells:
        if type(cell) is not str and not isinstance(cell, SeveralValues) and (reason := uncertainty(cell)):
            raise ValueError(reason)
    parts = (part.strip().rstrip(",;|").rstrip() for cell in cells for part in _BETWEEN_URLS.split(cell))
    found = [part for part in parts if part]
    for url in found:
        if _URL.fullmatch(url) is None and (fault := _url_fault(url)):
            raise ValueError(fault)
        if len(url) > MAX_URL:
            raise ValueError(f"{quoted(url)} has {len(url):,} characters; at most {MAX_URL:,} are allowed")
    distinct = list(dict.fromkeys(found))
    if len(distinct) > MAX_MEDIA:
        raise ValueError(f"{len(distinct)} URLs; at most {MAX_MEDIA} are allowed")
    return distinct


def _url_fault(text: str) -> str:
    """The reason why a text is not one URL; empty if it is one."""
    if text.startswith("data:"):
        return f"{quoted(text)} is an inline picture; give the URL of the picture"
    if _URL_START.match(text) is None:
        return f"{quoted(text)} is not an http:// or https:// URL; give the URL of the picture"
    if (space := _SPACE.search(text)) is not None:
        return f"{quoted(text)} has white space at {space.start()}; write it as %20, and each URL from its https://"
    if _SEVERAL_URLS.search(text, len("https://")) is not None:
        return f"{quoted(text)} may be several URLs; write each with https://, and a comma between them"
    return ""


def category(text: str) -> str:
    """A path of categories."""
    levels = text.split("/")
    if len(levels) > MAX_CATEGORY_LEVELS:
        raise ValueError(f"{len(levels)} levels; at most {MAX_CATEGORY_LEVELS} are allowed")
    if not all(level.strip() for level in levels):
        raise ValueError(f"{quoted(text)} has an empty level; expected for example 'Home/Garden'")
    return text


def check_text(text: str, limit: int) -> None:
    """Raise ValueError for a text that is too long or has a control character."""
    if len(text) > limit:
        at = text.find("data:image/")
        inline = f", because it contains an inline picture (at {at})" if at >= 0 else ""
        raise ValueError(f"{len(text):,} characters{inline}; at most {limit:,} are allowed")
    control = _CONTROL.search(text)
    if control is not None:
        code = ord(control[0])
        if code >= _UNDECODED:
            raise ValueError(f"the byte 0x{code - _UNDECODED:02X} is not valid in the encoding of the file")
        hint = ", or correct the text, which was probably read in a wrong encoding" if 0x80 <= code <= 0x9F else ""
        raise ValueError(
            f"control character U+{code:04X} at {control.start()}; only tab and line ends are allowed; remove it{hint}"
        )
    if not isinstance(text, DateText | SeveralValues) and (reason := uncertainty(text)):
        raise ValueError(reason)
