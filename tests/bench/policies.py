"""Policy sets of different sizes: three conditions for each policy, and twenty kinds of policies.

Policies of the same kind differ in word list, thresholds, categories, brands, countries and market, like the policies
of a marketplace for its categories and markets. One in three is limited to a market.
"""

from collections.abc import Callable
from typing import Any, Final

from deploy.local import sample

_BRANDS: Final = ("Apple", "Bose", "Canon", "Garmin", "Nikon", "Rolex", "Samsung", "Sony", "Lego", "Nike", "Gucci")
_CATEGORIES: Final = ("Toys", "Electronics", "Baby", "Home/Kitchen", "Fashion", "Sport", "Books", "Garden")
_SCORES: Final = ("counterfeit", "nudity", "violence", "spam", "drugs", "weapons", "hate")
_COUNTRIES: Final = ("CN", "DE", "FR", "GB", "HK", "PL", "TR", "US")
_VERDICTS: Final = ("reject", "review", "review", "approve")

_PRODUCT: Final = 'kind == "product"'
_When = Callable[[int], list[str]]


def _pick(values: tuple[str, ...], number: int) -> str:
    return values[number // len(_KINDS) % len(values)]


def _listed(number: int) -> str:
    return f'"list-{number}" in terms'


def _scored(number: int, threshold: float) -> str:
    name = _pick(_SCORES, number)
    return f'"{name}" in scores && scores["{name}"] >= {threshold + number % 7 / 100}'


def _in_category(number: int) -> str:
    return f'category.startsWith("{_pick(_CATEGORIES, number)}")'


def _cheaper(number: int) -> str:
    return f"price.known && price.minor < {500 + 250 * number}"


def _of_brand(number: int) -> str:
    first, second = _pick(_BRANDS, number), _pick(_BRANDS, number + 3 * len(_KINDS))
    return f'brand in ["{first}", "{second}"]'


_KINDS: Final[tuple[_When, ...]] = (
    lambda n: [_listed(n), _PRODUCT, _in_category(n)],
    lambda n: [_listed(n), _PRODUCT, _cheaper(n)],
    lambda n: [_listed(n), f'seller.country == "{_pick(_COUNTRIES, n)}"', "seller.known"],
    lambda n: [_scored(n, 0.8), _PRODUCT, _in_category(n)],
    lambda n: [_scored(n, 0.5), 'kind == "content"', f"author.known && text_length > {n}"],
    lambda n: [_of_brand(n), _cheaper(n), "price.known"],
    lambda n: [_of_brand(n), _listed(n), _PRODUCT],
    lambda n: ["seller.known", f"seller.age_days >= 0 && seller.age_days < {7 + n}", f"seller.listings > {20 + n}"],
    lambda n: ["seller.known", f"seller.rejected >= {2 + n}", f"seller.rating < {2 + n % 20 / 10}"],
    lambda n: [_PRODUCT, f"price.minor >= {50_000 + 100 * n}", "!seller.known || seller.age_days < 180"],
    lambda n: [_PRODUCT, _in_category(n), '!("condition" in attributes)'],
    lambda n: [_PRODUCT, f'"ce_mark_{n}" in attributes', _in_category(n)],
    lambda n: ['kind == "content"', f'text.contains("http://site-{n}")', "media_count == 0"],
    lambda n: [_PRODUCT, f"title_length + text_length < {16 + n % 5}", 'brand == ""'],
    lambda n: [_listed(n), f'"{_pick(_COUNTRIES, n)}" in markets', _PRODUCT],
    lambda n: [f'markets.exists(m, m == "{_pick(_COUNTRIES, n)}")', _scored(n, 0.6), f"media_count > {n % 9}"],
    lambda n: [f'language.startsWith("{_pick(_COUNTRIES, n).lower()}")', _listed(n), "trader.known"],
    lambda n: ['kind == "seller"', f"seller.rating >= 0.0 && seller.rating < {1 + n % 9 / 10}", "!trader.known"],
    lambda n: [_PRODUCT, f'title.lowerAscii().contains("lot of {n}")', _cheaper(n)],
    lambda n: [_listed(n), f'trader.country != "{_pick(_COUNTRIES, n)}"', "!trader.self_certification"],
)


def policies(count: int) -> list[dict[str, Any]]:
    """This number of policies, as the body of a publication has them."""
    return [_policy(number) for number in range(count)]


def _policy(number: int) -> dict[str, Any]:
    one: dict[str, Any] = {
        "id": f"p-{number:03d}",
        "when": _KINDS[number % len(_KINDS)](number),
        "verdict": _VERDICTS[number % len(_VERDICTS)],
        "reasons": [f"REASON_{number}"],
        "priority": 1 + number % 9,
    }
    return one | ({"markets": [sample.EU[number % len(sample.EU)]]} if number % 3 == 0 else {})
