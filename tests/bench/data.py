"""The measured items: the project's sample without its invalid lines, 0.8 to 1 kB each, each with its own subject.

Also the events that a stage finds on its topic if the stage before it does not run: the same events, made with
`shared`.
"""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import msgspec

from deploy.local import sample
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, Encoded, encode, subject_of
from shared.contracts.events import (
    CASE_OPENED,
    DECISION_MADE,
    ITEM_SUBMITTED,
    OPERATING_MODEL_PUBLISHED,
    POLICY_SET_PUBLISHED,
    CaseOpened,
    DecisionMade,
    Item,
    ItemSubmitted,
    OperatingModelPublished,
    PolicySetPublished,
    Region,
    Struct,
    Trace,
)
from shared.runtime.clock import to_text

REGION: Final = "eu"
REGIONS: Final = ("eu", "us")
_BYTES: Final = 820
_FEW: Final = 2_000
_STARTED: Final = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)

MARKETS: Final = {"eu": frozenset(sample.EU), "us": frozenset(sample.US)}
OPERATING_MODEL: Final[dict[str, Any]] = {
    "regions": [
        {
            "id": region,
            "title": region.upper(),
            "markets": sorted(markets),
            "queues": [
                {"id": f"{region}-general", "title": "General", "service_level_minutes": 480},
                {"id": f"{region}-urgent", "title": "Urgent", "service_level_minutes": 60},
            ],
            "default_queue": f"{region}-general",
        }
        for region, markets in MARKETS.items()
    ]
}


def _policy(number: int, when: Sequence[str], verdict: str, **more: object) -> dict[str, object]:
    return {"id": f"p-{number:02d}", "when": list(when), "verdict": verdict, "reasons": [f"REASON_{number}"], **more}


POLICY_SET: Final[dict[str, Any]] = {
    "terms": {
        "weapons": ["taser", "flick knife", "Springmesser", "brass knuckles", "pepper spray", "crossbow"],
        "medicine": ["Tramadol", "Ozempic", "without prescription", "rezeptfrei", "antibiotic"],
        "replica": ["replica", "1:1 copy", "mirror quality", "Replika", "imitación"],
        "contact": ["WhatsApp", "Telegram", "call me", "write me at"],
    },
    "policies": [
        _policy(1, ["'weapons' in terms", "kind == 'product'"], "reject"),
        _policy(2, ["'medicine' in terms", "'drugs' in scores && scores['drugs'] >= 0.8"], "reject"),
        _policy(3, ["'medicine' in terms"], "review", priority=2),
        _policy(4, ["'replica' in terms", "price.known", "price.minor < 5000"], "review", priority=3),
        _policy(5, ["'contact' in terms"], "reject"),
        _policy(6, ["'counterfeit' in scores && scores['counterfeit'] >= 0.85"], "reject"),
        _policy(7, ["'counterfeit' in scores && scores['counterfeit'] >= 0.5"], "review", priority=4),
        _policy(8, ["'nudity' in scores && scores['nudity'] >= 0.9"], "reject"),
        _policy(9, ["'nudity' in scores && scores['nudity'] >= 0.5"], "review"),
        _policy(10, ["'weapons' in scores && scores['weapons'] >= 0.8"], "reject"),
        _policy(11, ["'spam' in scores && scores['spam'] >= 0.7", "kind == 'content'"], "reject"),
        _policy(12, ["seller.known", "seller.listings > 20", "seller.rejected * 3 > seller.listings"], "review"),
        _policy(13, ["seller.known", "seller.age_days >= 0", "seller.age_days < 7", "price.minor > 50000"], "review"),
        _policy(14, ["kind == 'product'", "title_length < 3"], "reject"),
        _policy(15, ["kind == 'content'", "text.contains('http://')"], "review"),
        _policy(16, ["brand != ''", "price.known", "price.minor < 100"], "review"),
        _policy(17, ["kind == 'seller'", "seller.known", "seller.rating >= 0.0", "seller.rating < 2.0"], "review"),
        _policy(18, ["category.startsWith('Adult')"], "review"),
        _policy(19, ["media_count > 8"], "review"),
        _policy(20, ["markets.exists(m, m == 'US')", "text.contains('gambling')"], "review"),
    ],
    "default_verdict": "approve",
}


def published() -> tuple[OperatingModelPublished, PolicySetPublished]:
    """The operating model and the policy set, as the router publishes them."""
    regions = msgspec.convert(OPERATING_MODEL["regions"], list[Region])
    model = OperatingModelPublished(id="om-1-bench", number=1, published_by="bench", regions=regions)
    return model, msgspec.convert(
        {"id": "ps-1-bench", "number": 1, "published_by": "bench", **POLICY_SET}, PolicySetPublished
    )


def control() -> list[Encoded]:
    """The events of both."""
    model, policy_set = published()
    entities: list[tuple[str, str, Struct]] = [
        ("operating-model", OPERATING_MODEL_PUBLISHED, model),
        ("policy-set", POLICY_SET_PUBLISHED, policy_set),
    ]
    time = to_text(_STARTED)
    return [
        encode(Attributes(event_id, kind, "piepowder/router", time, entity, GLOBAL, event_id), entity_data)
        for entity, kind, entity_data in entities
        for event_id in [ids.event_id(entity, kind)]
    ]


def bodies(count: int, *, tag: str, region: str | None = None) -> list[bytes]:
    """`count` valid posts as JSON, whose subjects contain `tag`; with `region`, all are for sale in its markets."""
    found: list[bytes] = []
    wanted = MARKETS.get(region or "", frozenset(sample.DATA["markets"]))
    for seed in itertools.count(1):
        for line in sample.make(min(count * 2 + 50, 20_000), seed):
            if line.action == "refused":
                continue
            item = msgspec.json.decode(line.body)
            if wanted.isdisjoint(item["markets"]):
                continue
            item["id"] = f"{tag}-{len(found)}"
            item.pop("version", None)
            missing = _BYTES - len(line.body)
            if missing > 0:
                sentence = f" {item.get('text') or item.get('title')}"
                item["text"] = item.get("text", "") + (sentence * (missing // len(sentence) + 1))[:missing]
            found.append(msgspec.json.encode(item))
            if len(found) == count:
                return found
    raise AssertionError("the seeds do not end")


def ndjson(lines: Sequence[bytes], size: int) -> list[bytes]:
    """Bodies for `POST /v1/items/batch`, of `size` lines each."""
    return [b"\n".join(lines[at : at + size]) + b"\n" for at in range(0, len(lines), size)]


class Life(msgspec.Struct, frozen=True):
    """The events of an item in one region, as intake, router and decision publish them."""

    submitted: Encoded
    opened: Encoded
    decided: Encoded
    verdict: str


def lives(count: int, *, tag: str, region: str = REGION) -> list[Life]:
    """The events of `count` items: of twenty, seventeen are approved, one is rejected, two wait for a reviewer."""
    posts = map(msgspec.json.decode, bodies(count, tag=tag, region=region))
    return [_life(post, number, region) for number, post in enumerate(posts)]


def more_lives(numbers: range, *, tag: str, region: str = REGION) -> list[Life]:
    """Like `lives`, for the items of these numbers; much cheaper, because a few items are repeated."""
    few = _few(region)
    return [_life({**few[number % len(few)], "id": f"{tag}-{number}"}, number, region) for number in numbers]


@cache
def _few(region: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(body) for body in bodies(_FEW, tag="few", region=region)]


def _life(post: dict[str, Any], number: int, region: str) -> Life:
    content_hash = ids.content_hash(msgspec.json.encode(post))
    platform, kind, subject_id = post.pop("platform"), post.pop("kind"), post.pop("id")
    reference = post.pop("reference", "")
    item = msgspec.convert(post, Item)
    item_id = ids.item_id(platform, kind, subject_id, f"h:{content_hash}")
    subject = subject_of(platform, kind, subject_id)
    received_at = to_text(_STARTED + timedelta(milliseconds=number))
    due_at = to_text(_STARTED + timedelta(milliseconds=number, hours=8))
    first = ids.event_id(item_id, ITEM_SUBMITTED, region)
    submitted = ItemSubmitted(
        item_id=item_id,
        platform=platform,
        kind=kind,
        subject_id=subject_id,
        content_hash=content_hash,
        client="bench",
        reference=reference,
        received_at=received_at,
        regions=[region],
        item=item,
    )
    verdict = "review" if number % 10 == 3 else "reject" if number % 20 == 7 else "approve"
    trace = Trace(policy_set="1-0123456789abcdef", operating_model="1-fedcba9876543210", held=["p-12/0", "p-16/1"])
    opened = CaseOpened(
        case_id=ids.case_id(item_id, region, "item"),
        item_id=item_id,
        platform=platform,
        kind=kind,
        subject_id=subject_id,
        queue=f"{region}-general",
        priority=5,
        received_at=received_at,
        due_at=due_at,
        verdict=verdict,
        reasons=[] if verdict == "approve" else ["REASON_1"],
        trace=trace,
        item=item,
    )
    second = ids.event_id(first, CASE_OPENED)
    decided = DecisionMade(
        decision_id=ids.decision_id(opened.case_id, 1),
        case_id=opened.case_id,
        item_id=item_id,
        platform=platform,
        kind=kind,
        subject_id=subject_id,
        queue=opened.queue,
        n=1,
        action="approve",
        policy_set=trace.policy_set,
        automated=True,
        received_at=received_at,
        due_at=due_at,
    )
    third = ids.event_id(opened.case_id, DECISION_MADE, 1)

    def attributes(event_id: str, kind: str, service: str, cause: str | None) -> Attributes:
        source = f"piepowder/{service}/{region}"
        return Attributes(event_id, kind, source, received_at, subject, region, first, cause)

    return Life(
        encode(attributes(first, ITEM_SUBMITTED, "intake", None), submitted),
        encode(attributes(second, CASE_OPENED, "router", first), opened),
        encode(attributes(third, DECISION_MADE, "decision", second), decided),
        verdict,
    )
