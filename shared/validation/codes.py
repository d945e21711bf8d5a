"""Code lists: countries and currencies from pycountry, language tags from langcodes."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import langcodes
import pycountry

_is_tag = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*").fullmatch


class Codes(NamedTuple):
    """ISO 3166-1 alpha-2 countries, ISO 4217 currencies, and a check of BCP 47 language tags."""

    countries: frozenset[str]
    currencies: frozenset[str]
    is_language: Callable[[str], bool]


def load() -> Codes:
    """Load the code lists."""
    return Codes(
        frozenset(country.alpha_2 for country in pycountry.countries),
        frozenset(currency.alpha_3 for currency in pycountry.currencies),
        _is_language,
    )


@lru_cache(maxsize=4096)
def _is_language(tag: str) -> bool:
    return len(tag) <= 35 and _is_tag(tag) is not None and bool(langcodes.tag_is_valid(tag))
