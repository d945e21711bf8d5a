"""The sample: invented marketplace listings with known truth.

A seed gives the same lines, byte for byte, on every machine, and a longer sample starts with the shorter one. It
contains violations, near misses that only a person can recognize, repeats, newer versions, older versions that arrive
late, and invalid lines. The truth is stored beside the lines; the posted lines do not contain it.
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from piepowder.simulation import truth_key
from shared.contracts.envelope import subject_of

PLATFORM: Final = "fair"
DATA: Final[dict[str, Any]] = msgspec.yaml.decode(Path(__file__).with_name("sample_data.yaml").read_bytes())
_PLANTED: Final[Mapping[str, Mapping[str, str]]] = DATA["planted"]
EU: Final[list[str]] = DATA["regions"]["eu"]
US: Final[list[str]] = DATA["regions"]["us"]
_TEXT_LIMIT: Final = 2 * 2**20


class SampleLine(NamedTuple):
    """One line of the sample. `action` is the right decision (`approve`, `reject`), or `refused` for an invalid line;
    `why` names the planted fault or other reason, and is empty for an ordinary line."""

    body: bytes
    key: str
    action: str
    why: str


class Violation(NamedTuple):
    """A planted fault or near miss: `texts` by language (else English), `scores`, and its `share` of new items."""

    why: str
    action: str
    share: float
    texts: Mapping[str, str] = {}
    scores: Mapping[str, tuple[float, float]] = {}


VIOLATIONS: Final = (
    Violation("weapon", "reject", 0.008, _PLANTED["weapon"]),
    Violation("medicine", "reject", 0.006, _PLANTED["medicine"]),
    Violation("recalled", "reject", 0.005, _PLANTED["recalled"]),
    Violation("counterfeit", "reject", 0.012, _PLANTED["counterfeit"], {"counterfeit": (0.75, 0.99)}),
    Violation("counterfeit by its looks", "reject", 0.010, {}, {"counterfeit": (0.8, 0.95)}),
    Violation("counterfeit, well hidden", "reject", 0.004, {}, {"counterfeit": (0.4, 0.79)}),
    Violation("off-platform contact", "reject", 0.010, _PLANTED["contact"]),
    Violation("adult", "reject", 0.006, {}, {"nudity": (0.85, 0.999)}),
    Violation("spy camera", "reject", 0.005, _PLANTED["spy_camera"]),
    Violation("near miss: replica", "approve", 0.008, _PLANTED["replica"], {"counterfeit": (0.2, 0.6)}),
    Violation("near miss: laser", "approve", 0.006, _PLANTED["laser"]),
    Violation("near miss: score", "approve", 0.008, {}, {"counterfeit": (0.8, 0.86)}),
)
_CHEAP: Final = 0.008
_SHOPS: Final = {"good": 0.83, "new": 0.11, "hasty": 0.02, "bad": 0.04}


def make(count: int, seed: int = 1) -> Iterator[SampleLine]:
    """The first `count` lines of the sample of `seed`."""
    return _Maker(seed).lines(count)


def truth(lines: Iterator[SampleLine]) -> dict[str, str]:
    """The right decision on each valid item, by its key: `<subject>@<version>`, or `<subject>@` without a version."""
    return {line.key: line.action for line in lines if line.action != "refused"}


def gtin(digits: str) -> str:
    """`digits` with their GS1 check digit."""
    total = sum(int(digit) * (3 if at % 2 == 0 else 1) for at, digit in enumerate(reversed(digits)))
    return digits + str(-total % 10)


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a sample, not a secret
        self._sellers = [self._seller(number) for number in range(120)]
        self._posted: list[tuple[dict[str, Any], SampleLine]] = []
        self._versions: dict[str, tuple[int, int]] = {}  # id -> lowest and highest posted version
        self._broken = 0

    def lines(self, count: int) -> Iterator[SampleLine]:
        for number in range(count):
            roll = self._random.random()
            if roll < 0.010:
                yield self._break(number)
            elif roll < 0.025 and self._posted:
                yield self._random.choice(self._posted[-400:])[1]
            elif roll < 0.045 and self._posted:
                yield self._newer(*self._random.choice(self._posted[-400:]))
            elif roll < 0.055 and (older := [one for one in self._posted[-50:] if self._lowest(one[0]) > 1]):
                yield self._older(*self._random.choice(older))
            else:
                yield self._fresh(number)

    def _fresh(self, number: int) -> SampleLine:
        kind = self._random.choices(("product", "content", "seller"), (84, 9, 7))[0]
        item = {"product": self._product, "content": self._content, "seller": self._shop}[kind](number)
        action, why = self._plant(item) if kind != "seller" else ("approve", "")
        seller = item.get("seller", {})
        if action == "approve" and seller.get("rejected", 0) > 0.3 * max(1, seller.get("listings", 0)):
            action, why = ("reject" if kind == "seller" or self._random.random() < 0.5 else "approve"), "bad seller"
        if self._random.random() < 0.3:
            item["version"] = self._random.randint(2, 5)
        return self._post(item, action, why)

    def _post(self, item: dict[str, Any], action: str, why: str) -> SampleLine:
        subject = subject_of(item["platform"], item["kind"], item["id"])
        version = item.get("version")
        if version is not None:
            low, high = self._versions.get(item["id"], (version, version))
            self._versions[item["id"]] = min(low, version), max(high, version)
        planted = SampleLine(msgspec.json.encode(item), truth_key(subject, version), action, why)
        self._posted.append((item, planted))
        return planted

    def _lowest(self, item: dict[str, Any]) -> int:
        return self._versions.get(item["id"], (0, 0))[0]

    def _newer(self, item: dict[str, Any], planted: SampleLine) -> SampleLine:
        """A newer version of an item: a higher number or, for an item without a number, only a later line."""
        version = {"version": self._versions[item["id"]][1] + 1} if item["id"] in self._versions else {}
        return self._post(self._changed(item) | version, planted.action, planted.why or "newer version")

    def _older(self, item: dict[str, Any], planted: SampleLine) -> SampleLine:
        """An older version that arrives late."""
        version = {"version": self._lowest(item) - 1}
        return self._post(self._changed(item) | version, planted.action, planted.why or "older version")

    def _changed(self, item: dict[str, Any]) -> dict[str, Any]:
        changed = {**item, "text": f"{item.get('text', '')} ({self._random.randint(2, 99)}×)".lstrip()}
        if "price" in item:
            amount = item["price"]["amount_minor"] * self._random.randint(85, 110) // 100
            changed["price"] = {**item["price"], "amount_minor": max(1, amount)}
        return changed

    def _plant(self, item: dict[str, Any]) -> tuple[str, str]:
        roll = self._random.random()
        for violation in VIOLATIONS:
            if roll < violation.share:
                if violation.texts:
                    text = violation.texts.get(item["language"], violation.texts["en"])
                    where = "title" if item["kind"] == "product" and self._random.random() < 0.6 else "text"
                    item[where] = f"{item.get(where, '')} {text}".strip() if where == "text" else text
                for name, (low, high) in violation.scores.items():
                    item.setdefault("scores", {})[name] = round(self._random.uniform(low, high), 3)
                return violation.action, violation.why
            roll -= violation.share
        if roll < _CHEAP and "price" in item:
            item["price"] = {**item["price"], "amount_minor": self._random.randint(1, 9)}
            return "reject", "absurd price"
        return "approve", ""

    def _product(self, number: int) -> dict[str, Any]:
        pick = self._random
        markets = self._markets()
        market = DATA["markets"][markets[0]]
        language, currency = pick.choice(market["languages"]), market["currency"]
        product = pick.choice(DATA["products"])
        brand, (low, high) = pick.choice(product["brands"]), product["price"]
        colour = pick.choice(("anthracite", "ivory", "olive", "cobalt", "sand"))
        model = f"{pick.choice('ABCDEFGHKLMNPRSTUVWX')}{pick.randint(10, 999)}"
        factor = {"PLN": 430, "SEK": 1130}.get(currency, 100)
        item = _item("product", f"p-{number:06d}", markets, language) | {
            "title": f"{brand} {product['names'][language]} {model}",
            "text": " ".join(pick.sample(DATA["sentences"][language], pick.randint(1, 4))),
            "category": product["category"],
            "brand": brand,
            "attributes": {"colour": colour, "condition": pick.choice(("new", "new", "used"))},
            "price": {"amount_minor": pick.randint(low * factor, high * factor) // 5 * 5, "currency": currency},
            "seller": pick.choice(self._sellers),
            "scores": {"counterfeit": round(pick.betavariate(1, 14), 3), "nudity": round(pick.betavariate(1, 40), 3)},
        }
        if pick.random() < 0.7:
            item["gtin"] = gtin(f"4{pick.randint(0, 10**11 - 1):011d}")
        if pick.random() < 0.5:
            item["media"] = [f"https://img.example/{number:06d}-{n}.jpg" for n in range(pick.randint(1, 3))]
        if pick.random() < 0.3:
            item["reference"] = f"order-{pick.randint(1, 10**6)}"
        return item

    def _content(self, number: int) -> dict[str, Any]:
        markets = self._markets()
        language = self._random.choice(DATA["markets"][markets[0]]["languages"])
        return _item("content", f"c-{number:06d}", markets, language) | {
            "text": " ".join(self._random.sample(DATA["reviews"][language], self._random.randint(1, 2))),
            "category": "Review",
            "scores": {"spam": round(self._random.betavariate(1, 12), 3)},
        }

    def _shop(self, number: int) -> dict[str, Any]:
        seller = self._random.choice(self._sellers)
        language = DATA["markets"][seller["country"]]["languages"][0]
        return _item("seller", f"{seller['id']}-{number:06d}", [seller["country"]], language) | {
            "title": seller["name"],
            "text": DATA["sentences"][language][1],
            "seller": seller,
        }

    def _seller(self, number: int) -> dict[str, Any]:
        pick = self._random
        sort = pick.choices(list(_SHOPS), list(_SHOPS.values()))[0]
        bad = sort == "bad"
        listings = {"new": pick.randint(0, 12), "hasty": pick.randint(60, 400)}.get(sort, pick.randint(40, 4000))
        return {
            "id": f"s-{number:03d}",
            "name": f"{pick.choice(DATA['shops'])} {number}",
            "country": pick.choice(EU + US),
            "age_days": pick.randint(0, 13) if sort in ("new", "hasty") else pick.randint(60, 4000),
            "listings": listings,
            "rejected": max(5, int(listings * pick.uniform(0.35, 0.8))) if bad else pick.choice((0, 0, 0, 1, 3)),
            "rating": round(pick.uniform(1.2, 3.4) if bad else pick.uniform(3.9, 5.0), 1),
        }

    def _markets(self) -> list[str]:
        roll, pick = self._random.random(), self._random
        if roll < 0.5:
            return list(dict.fromkeys(pick.choices(EU, k=pick.randint(1, 3))))
        if roll < 0.88:
            return list(dict.fromkeys(pick.choices(US, k=pick.randint(1, 2))))
        return [pick.choice(EU), pick.choice(US)]

    def _break(self, number: int) -> SampleLine:
        """An invalid line: each fault in turn, the large one once."""
        item = self._product(number)
        faults = list(_FAULTS) if self._broken < len(_FAULTS) else list(_FAULTS)[:-1]
        fault = faults[self._broken % len(faults)]
        self._broken += 1
        return SampleLine(_FAULTS[fault](item), "", "refused", fault)


def _item(kind: str, item_id: str, markets: list[str], language: str) -> dict[str, Any]:
    return {"platform": PLATFORM, "kind": kind, "id": item_id, "markets": markets, "language": language}


def _without(item: dict[str, Any], field: str) -> bytes:
    return msgspec.json.encode({name: value for name, value in item.items() if name != field})


def _with(item: dict[str, Any], **fields: object) -> bytes:
    return msgspec.json.encode({**item, **fields})


_FAULTS: Final = {
    "JSON cut off": lambda item: msgspec.json.encode(item)[:-25],
    "unknown market": lambda item: _with(item, markets=["GB"]),
    "no id": lambda item: _without(item, "id"),
    "no markets": lambda item: _without(item, "markets"),
    "price not a whole number": lambda item: _with(item, price={"amount_minor": 12.5, "currency": "EUR"}),
    "unknown currency": lambda item: _with(item, price={"amount_minor": 1250, "currency": "XQX"}),
    "wrong GTIN check digit": lambda item: _with(item, gtin=gtin("400638133393")[:-1] + "0"),
    "NUL in the title": lambda item: _with(item, title="Lamp\x00shade"),
    "unknown kind": lambda item: _with(item, kind="auction"),
    "not an object": lambda item: msgspec.json.encode([item["id"]]),
    "score above 1": lambda item: _with(item, scores={"counterfeit": 7}),
    "text of 2 MB": lambda item: _with(item, text="lorem ipsum " * (_TEXT_LIMIT // 12 + 1)),
}
