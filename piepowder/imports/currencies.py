"""Currencies: their codes, their signs, and the currencies of the markets.

A sign that several currencies share ("$", "kr") is not a currency. It becomes one only if the markets, the column or
the option `--currency` allow exactly one of them.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from piepowder.imports.rows import quoted

_SHARED_SIGNS: Final = {
    "$": "USD AUD BBD BMD BND BSD BZD CAD CLP COP FJD GYD HKD JMD KYD LRD MXN NAD NZD SBD SGD SRD TTD TWD XCD ARS UYU",
    "c$": "CAD NIO",
    "£": "GBP EGP FKP GIP SHP SSP SYP",
    "¥": "JPY CNY",
    "kr": "SEK NOK DKK ISK",
    "lei": "RON MDL",
    "leu": "RON MDL",
    "fr": "CHF XAF XOF XPF",
    "rs": "INR PKR LKR NPR MUR SCR",
    "₩": "KRW KPW",
}
_OWN_SIGNS: Final = (
    "€=EUR euro=EUR us$=USD u$s=USD usd$=USD ca$=CAD cdn$=CAD can$=CAD a$=AUD au$=AUD nz$=NZD hk$=HKD nt$=TWD "
    "s$=SGD sg$=SGD mx$=MXN mex$=MXN r$=BRL gb£=GBP jp¥=JPY 円=JPY cn¥=CNY 元=CNY rmb=CNY skr=SEK nkr=NOK "
    "dkr=DKK kč=CZK zł=PLN ft=HUF лв=BGN ₽=RUB руб=RUB ₴=UAH грн=UAH ₺=TRY tl=TRY sfr=CHF ₹=INR 원=KRW ฿=THB "
    "₫=VND đ=VND rm=MYR rp=IDR ₱=PHP ₪=ILS ₦=NGN ₸=KZT ₡=CRC ₲=PYG ₵=GHS s/=PEN"
)
_NO_MONEY: Final = frozenset(
    ("XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX")
)
"""Codes of ISO 4217 for metals, units of account, tests and "no currency"."""
_SIGNS: Final = _SHARED_SIGNS | dict(pair.split("=") for pair in _OWN_SIGNS.split())
"""The currencies of each sign, in lower case. Source: CLDR, narrow and local symbols of currencies in use."""


@lru_cache(maxsize=1)
def codes() -> frozenset[str]:
    """The codes of ISO 4217 that are money."""
    import pycountry  # noqa: PLC0415 - slow to load, and not every command needs it

    return frozenset(currency.alpha_3 for currency in pycountry.currencies) - _NO_MONEY


def code(text: str) -> str:
    """A currency (ISO 4217); raises ValueError for another text."""
    if text.upper() not in codes():
        raise ValueError(f"{text!r:.40} is not a currency code (ISO 4217)")
    return text.upper()


def checked(text: str) -> str:
    """The sign or code of a currency; raises ValueError for another text."""
    if not named(text):
        raise ValueError(f"{quoted(text, 40)} is not a currency; write its code (ISO 4217), such as EUR")
    return text


def is_code_or_sign(text: str) -> bool:
    """True for a code in capitals or a sign that is no word. Words such as `lei` have other meanings, too."""
    return not (text.isalpha() and text not in codes()) and bool(named(text))


@lru_cache(maxsize=1024)
def named(token: str) -> tuple[str, ...]:
    """The currencies that a sign or a code in a price may mean, without spaces around it; () for another text."""
    bare = "".join(token.split()).replace("\uffe5", "¥").replace("\uff04", "$").casefold()
    found = _SIGNS.get(bare) or _SIGNS.get(bare.removesuffix("."))
    if found is not None:
        return tuple(found.split())
    code = bare.upper()
    return (code,) if code in codes() else ()


@lru_cache(maxsize=1024)
def of_markets(markets: tuple[str, ...]) -> tuple[str, ...]:
    """The legal tender of the markets (CLDR), each once."""
    from babel.numbers import get_territory_currencies  # noqa: PLC0415 - the same

    found = [code for market in markets for code in get_territory_currencies(market)]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=65_536)
def resolve(tokens: tuple[str, ...], column: str, default: str, markets: tuple[str, ...]) -> str:
    """The currency of a price.

    `tokens` are the signs and codes in its cell. `column` is the sign or code that a column states for it, `default`
    the currency for prices that name none; both may be empty. Raises ValueError unless one currency is possible.
    """
    possible = _possible(tokens)
    if column:
        possible = tuple(code for code in named(column) if not tokens or code in possible)
        if not possible:
            raise ValueError(f"{' and '.join(tokens)!r} contradicts the currency {column} of its column")
    if not possible:
        only = default or _single(of_markets(markets))
        if not only:
            several = f"the markets {', '.join(markets)} have {_listed(of_markets(markets))}"
            raise ValueError(f"the cell names no currency, and {several}; give --currency")
        return only
    if len(possible) == 1:
        return possible[0]
    only = default if default in possible else _single([code for code in of_markets(markets) if code in possible])
    if not only:
        some = ", ".join(possible[:4]) + (" and others" if len(possible) > 4 else "")
        advice = f"--currency {default} is none of them" if default else "give --currency"
        raise ValueError(
            f"{(*tokens, column)[0]!r} is the sign of {some}, and the market {', '.join(markets)} does not decide it;"
            f" {advice}"
        )
    return only


def _possible(tokens: Sequence[str]) -> tuple[str, ...]:
    possible: tuple[str, ...] = ()
    for at, token in enumerate(tokens):
        meant = named(token)
        possible = meant if at == 0 else tuple(code for code in possible if code in meant)
    if tokens and not possible:
        raise ValueError(f"{' and '.join(tokens)!r} name different currencies")
    return possible


def _listed(found: Collection[str]) -> str:
    return f"several ({', '.join(found)})" if found else "none that is known"


def _single(found: Collection[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""
