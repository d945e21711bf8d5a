"""Written prices as exact minor units, or a refusal: no amount is rounded, and no decimal separator is guessed.

A price shows its decimal separator if only one reading is possible: `12,5`, `1.299,90`, `1.299.900`. One point or comma
before three digits (`1.500`, `12,345`) is ambiguous. The column as a whole may decide it, if at least two other prices
of the same currency show one decimal separator, and none the other; or `--decimal` decides it. Babel then reads the
number strictly, with its thousands separators in the right places.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from babel.numbers import NumberFormatError, parse_decimal

from piepowder.currency_decimals import decimals
from piepowder.imports import currencies
from piepowder.imports.rows import Number, quoted, uncertainty

_MAX_MINOR: Final = 2**63 - 1
_SPACES: Final = re.compile("[\u00a0\u2007\u2009\u202f\\s]+")
_PLAIN: Final = re.compile(r"[0-9]{1,15}(?:([.,])([0-9]{1,2}))?")
_DIGITS: Final = r"[0-9](?:[0-9.,' ]*[0-9])?|(?<![^\s$€£¥₹])[.,][0-9]+"  # the point of "Rs.500" is no decimal separator
_PRICE: Final = re.compile(
    rf"(?P<before>[^0-9,'+-]*?)(?P<digits>{_DIGITS})(?P<dash>[.,] ?[-–—]{{1,2}})?(?P<after>[^0-9]*)"
)
_BETWEEN: Final = re.compile(r"(?P<whole>[0-9]{1,9}) ?(?P<sign>[^0-9 .,'+-]{1,3}) ?(?P<fraction>[0-9]{2})")
_FLOAT_DIGITS: Final = 15  # a binary float has 15 to 17 significant digits
_FLOAT_ERROR: Final = Decimal("1e-9")


class DecimalSeparator(StrEnum):
    """A decimal separator; NONE and AMBIGUOUS are those of a price that has none, or that may have either."""

    POINT = "."
    COMMA = ","
    NONE = "none"
    AMBIGUOUS = "ambiguous"


class Price(NamedTuple):
    """An amount in minor units of an ISO 4217 currency."""

    amount_minor: int
    currency: str


class _Written(NamedTuple):
    """The parts of a written price: signs and codes of a currency, and a number.

    `is_between`: the currency stands in place of the decimal separator (`12€99`), so the price shows none.
    """

    tokens: tuple[str, ...]
    number: str
    is_between: bool = False

    @property
    def shown(self) -> DecimalSeparator:
        return DecimalSeparator.NONE if self.is_between else _separator_of(self.number)


@lru_cache(maxsize=65_536)
def shown_separator(
    text: str, column: str, markets: tuple[str, ...], default: str
) -> tuple[str, DecimalSeparator] | None:
    """The currency of a price, and the decimal separator that it shows; None for a price that is refused for another
    reason than an ambiguous separator. The arguments are those of `read_price`."""
    try:
        currency = currencies.resolve(_tokens(text), column, default, markets)
        plain = _PLAIN.fullmatch(text)
        shown = _written(text).shown if plain is None else _separator_of(text)
        if shown is not DecimalSeparator.AMBIGUOUS:
            _minor(_read(text, None), text, currency)
    except ValueError:
        return None
    return currency, shown


def read_price(
    text: str, column: str, markets: tuple[str, ...], decimal_of: Callable[[str], str | None], default: str
) -> Price:
    """A price of an item for `markets`; raises ValueError with the reason.

    `column` is the sign or code of the currency that a column states for it, or empty. `decimal_of` returns the decided
    decimal separator of a currency, None if the price must show it. `default` is the currency of a price that names
    none, empty for that of the markets.
    """
    if reason := uncertainty(text):
        raise ValueError(reason)
    if isinstance(text, Number):
        currency = currencies.resolve((text.sign,) if text.sign else (), column, default, markets)
        try:
            amount = Decimal(text)
        except InvalidOperation as error:  # an exponent out of range
            raise ValueError(f"{quoted(text)} is not a price") from error
        if amount < 0:
            raise ValueError(f"{text!s:.60} is less than 0")
    else:
        currency = currencies.resolve(_tokens(text), column, default, markets)
        amount = _read(text, decimal_of(currency))
    return Price(_minor(amount, text, currency), currency)


def _tokens(text: str) -> tuple[str, ...]:
    return () if _PLAIN.fullmatch(text) is not None else _written(text).tokens


@lru_cache(maxsize=65_536)
def _read(text: str, decimal: str | None) -> Decimal:
    plain = _PLAIN.fullmatch(text)
    if plain is not None and (plain[1] is None or decimal in (None, plain[1])):
        return Decimal(text.replace(",", "."))
    written = _written(text)
    number, shown = written.number, written.shown
    if written.is_between:
        return Decimal(number)
    if shown is DecimalSeparator.AMBIGUOUS and decimal is None:
        mark = "." if "." in number else ","
        raise ValueError(
            f"{quoted(text)} is ambiguous: {number.replace(mark, '')}, or {number.replace(',', '.')};"
            " give --decimal . or --decimal ,"
        )
    used = decimal or (shown.value if shown in (DecimalSeparator.POINT, DecimalSeparator.COMMA) else ".")
    return _strict(number, used, text)


@lru_cache(maxsize=65_536)
def _written(text: str) -> _Written:
    bare = _SPACES.sub(" ", text).replace("’", "'").replace("´", "'").strip()
    between = _BETWEEN.fullmatch(bare)
    if between is not None and currencies.named(between["sign"]):
        return _Written((between["sign"],), f"{between['whole']}.{between['fraction']}", is_between=True)
    found = _PRICE.fullmatch(bare)
    if found is None:
        raise _not_an_amount(text)
    tokens = tuple(token for token in (found["before"].strip(), found["after"].strip()) if token)
    if not all(map(currencies.named, tokens)):
        raise _not_an_amount(text)
    return _Written(tokens, found["digits"])


def _not_an_amount(text: str) -> ValueError:
    return ValueError(
        f"{quoted(text)} is not an amount; expected a number such as 12.99; correct it, or leave the cell empty"
    )


def _separator_of(number: str) -> DecimalSeparator:
    """The decimal separator of a number with digits, points, commas, apostrophes and spaces."""
    points, commas = number.count("."), number.count(",")
    if not points and not commas:
        return DecimalSeparator.NONE
    if points and commas:
        return DecimalSeparator(number[max(number.rfind("."), number.rfind(","))])
    mark, other = (".", ",") if points else (",", ".")
    if points + commas > 1:
        return DecimalSeparator(other)
    before, after = number.split(mark)
    grouped = " " in before or "'" in before
    if len(after) == 3 and 1 <= len(before) <= 3 and not before.startswith("0") and not grouped:
        return DecimalSeparator.AMBIGUOUS
    return DecimalSeparator(mark)


def _strict(number: str, decimal: str, text: str) -> Decimal:
    """A number whose thousands separators are in the right places; raises ValueError."""
    locales, group = (("en", "en_IN"), ",") if decimal == "." else (("de",), ".")
    grouping = {mark for mark in " '" + group if mark in number}
    if len(grouping) <= 1 and number.count(decimal) <= 1:
        whole, _, fraction = number.partition(decimal)
        if not any(mark in fraction for mark in grouping):
            for mark in grouping:
                whole = whole.replace(mark, group)
            for locale in locales:
                try:
                    return parse_decimal(f"{whole or '0'}{decimal}{fraction or '0'}", locale=locale, strict=True)
                except NumberFormatError:
                    continue
    raise ValueError(f"{quoted(text)} is not an amount with the decimal separator {decimal!r}")


def _minor(amount: Decimal, text: str, currency: str) -> int:
    digits = decimals(currency)
    minor = amount.scaleb(digits)
    whole = minor.to_integral_value()
    if minor != whole and not _is_float_error(amount, minor - whole):
        raise ValueError(f"{quoted(text)} has more decimals than {currency}, which has {digits}")
    if whole > _MAX_MINOR:
        raise ValueError(f"{quoted(text)} is larger than any price")
    return int(whole)


def _is_float_error(amount: Decimal, difference: Decimal) -> bool:
    """True for a binary float that was written with all of its digits: 2.7199999999999998 is the float of 2.72."""
    return len(amount.as_tuple().digits) >= _FLOAT_DIGITS and abs(difference) <= _FLOAT_ERROR * max(Decimal(1), amount)
