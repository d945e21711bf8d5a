"""Factories and fakes for tests of notices and appeals."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from services.intake.items.handlers import ItemIntake
from services.intake.publishing.group_commit import GroupCommitPublisher
from shared.auth.principal import Principal
from shared.contracts.envelope import GLOBAL, Attributes, Event
from shared.contracts.events import OPERATING_MODEL_PUBLISHED, OperatingModelPublished, Queue, Region
from shared.runtime.clock import ManualClock
from shared.validation import codes
from tests.support.intake_cluster import Cluster

NOW = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
TIME = "2026-05-01T09:30:00.000Z"
CODES = codes.load()
WRITES = frozenset({"items:write", "notices:write", "appeals:write"})
EVERYWHERE = Principal(name="shop", scopes=WRITES)


def client(
    *regions: str, name: str = "shop", platforms: Sequence[str] = "*", scopes: frozenset[str] = WRITES
) -> Principal:
    return Principal(name=name, scopes=scopes, regions=frozenset(regions), platforms=frozenset(platforms))


def intake(cluster: Cluster, regions: Sequence[str] = ("eu", "us")) -> ItemIntake:
    """An `ItemIntake` for the regions `eu` (DE, FR) and `us` (US), with an operating model that has `regions`."""
    publishers = dict.fromkeys(("eu", "us"), GroupCommitPublisher(cluster, max_records=100, max_bytes=1_000_000))
    item_intake = ItemIntake(codes=CODES, publishers=publishers)
    queue = Queue(id="q", service_level_minutes=60)
    in_model = [
        Region(id=name, markets=markets, queues=[queue], default_queue="q")
        for name, markets in (("eu", ["DE", "FR"]), ("us", ["US"]))
        if name in regions
    ]
    model = OperatingModelPublished(id="om-1", number=1, published_by="test", regions=in_model)
    about = Attributes("om-1", OPERATING_MODEL_PUBLISHED, "test", TIME, "operating-model", GLOBAL, "om-1")
    item_intake.apply(Event(about, model))
    item_intake.caught_up()
    return item_intake


def clock() -> ManualClock:
    return ManualClock(NOW)


def notice(**changed: Any) -> dict[str, Any]:
    """A valid notice with the `changed` fields; None removes a field."""
    valid = {
        "platform": "shop",
        "kind": "product",
        "id": "B1/a:b",
        "markets": ["DE", "US"],
        "reporter": {"kind": "user", "name": "Ada Weber", "email": "ada@example.org"},
        "ground": "counterfeit",
        "explanation": "It bears our mark, and we have not made it.",
        "locations": ["https://shop.example/dp/B1"],
        "good_faith": True,
        "language": "en",
        "reference": "report-1",
    }
    return {name: value for name, value in (valid | changed).items() if value is not None}


def appeal(**changed: Any) -> dict[str, Any]:
    """An appeal with the `changed` fields; None removes a field. It is valid with a contested decision."""
    valid = {
        "appellant": {"kind": "seller", "name": "Audio GmbH", "email": "recht@audio.example"},
        "explanation": "The maker's invoice is enclosed: it is genuine.",
        "reference": "complaint-1",
    }
    return {name: value for name, value in (valid | changed).items() if value is not None}
