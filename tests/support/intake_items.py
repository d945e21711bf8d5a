"""Items, operating models and an `ItemIntake` for tests."""

from services.intake.items.handlers import ItemIntake
from shared.auth.principal import Principal
from shared.contracts.envelope import Attributes, Event
from shared.contracts.events import OperatingModelPublished, Queue, Region
from shared.validation import codes

NOW = "2026-05-01T09:30:00.000Z"


ANYONE = Principal(name="shop", scopes=frozenset({"items:write"}))


def model(*regions: tuple[str, list[str]], number: int = 1) -> OperatingModelPublished:
    queue = Queue(id="q", service_level_minutes=60)
    return OperatingModelPublished(
        id=f"om-{number}",
        number=number,
        published_by="test",
        regions=[Region(id=name, markets=markets, queues=[queue], default_queue="q") for name, markets in regions],
    )


def published(content: OperatingModelPublished) -> Event[OperatingModelPublished]:
    return Event(Attributes("", "", "", "", "", "", ""), content)


def item_intake() -> ItemIntake:
    """An `ItemIntake` that serves `eu` and `us`; the operating model also has `sea`. It cannot send."""
    publishers = dict.fromkeys(["eu", "us"])
    intake = ItemIntake(codes=codes.load(), publishers=publishers)  # type: ignore[arg-type]  # nothing is sent
    intake.apply(published(model(("eu", ["DE", "FR"]), ("us", ["US"]), ("sea", ["SG"]))))
    intake.caught_up()
    return intake
