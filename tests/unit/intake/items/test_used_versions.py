"""Finding posts whose version was used for other content, without a delay of their acceptance."""

import asyncio
from collections.abc import Sequence

import pytest

from services.intake.items import used_versions
from services.intake.items.handlers import PreparedItem
from services.intake.items.used_versions import KnownHashes, UsedVersions
from shared.auth.principal import Principal
from shared.runtime.errors import Fatal, Transient

EVERYWHERE = Principal("shop", frozenset({"items:write"}), frozenset({"*"}))
NORTHERN = Principal("shop", frozenset({"items:write"}), frozenset({"north"}))


def prepared(
    item_id: str, content: str, *, version: int | None = 1, regions: tuple[str, ...] = ("north",)
) -> PreparedItem:
    return PreparedItem(
        item_id=item_id, subject="s", version=version, content_hash=content, regions=regions, event_ids=[], records=[]
    )


class Table:
    """The stored hashes; `answer` lets the waiting look-ups continue."""

    def __init__(self, known: KnownHashes) -> None:
        self.known = known
        self.asked: list[list[str]] = []
        self.answer = asyncio.Event()
        self.error: Exception | None = None

    async def content_hashes(self, item_ids: Sequence[str]) -> KnownHashes:
        self.asked.append(sorted(item_ids))
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return self.known


async def found(used: UsedVersions, items: list[PreparedItem], client: Principal = EVERYWHERE) -> list[int]:
    return sorted(await used.conflicts(items, client, used.look(items)))


async def test_contents_that_were_accepted_just_before_are_compared_in_their_order() -> None:
    used = UsedVersions()
    batch = [prepared("a", "1"), prepared("a", "2"), prepared("b", "1"), prepared("a", "1"), prepared("a", "3")]
    assert await found(used, batch) == [1, 4]
    assert await found(used, [prepared("a", "4", version=None), prepared("b", "2")]) == [1]
    assert await found(used, [prepared("a", "1")]) == []


async def test_contents_of_regions_that_the_client_does_not_see_are_not_compared() -> None:
    used = UsedVersions()
    used.hashes = table = Table({"c": {"south": "1"}, "d": {"south": "1", "north": "2"}})
    table.answer.set()
    assert await found(used, [prepared("a", "1", regions=("south",))]) == []
    assert await found(used, [prepared("a", "2"), prepared("c", "2"), prepared("d", "2")], NORTHERN) == []
    assert await found(used, [prepared("a", "2"), prepared("c", "2"), prepared("d", "2")]) == [0, 1, 2]


async def test_posts_that_arrive_during_a_look_up_share_the_next_one() -> None:
    used = UsedVersions()
    used.hashes = table = Table({"p3": {"north": "other"}})
    first = asyncio.create_task(found(used, [prepared("p0", "1")]))
    await asyncio.sleep(0.005)
    others = [asyncio.create_task(found(used, [prepared(f"p{n}", "1")])) for n in range(1, 5)]
    await asyncio.sleep(0.005)
    table.answer.set()
    assert await asyncio.gather(first, *others) == [[], [], [], [0], []]
    assert table.asked == [["p0"], ["p1", "p2", "p3", "p4"]]


async def test_a_look_up_that_takes_too_long_delays_a_post_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_versions, "_PATIENCE_SECONDS", 0.01)
    used = UsedVersions()
    used.hashes = table = Table({"a": {"north": "other"}, "b": {"north": "other"}})
    async with asyncio.timeout(5):
        assert await found(used, [prepared("a", "1")]) == []
        assert await found(used, [prepared("b", "1")]) == []
    table.answer.set()
    await asyncio.sleep(0.01)
    assert await found(used, [prepared("b", "1")]) == [0]
    monkeypatch.setattr(used_versions, "_MAX_LOOKED_UP", 0)
    assert used.look([prepared("b", "1")]) is None


@pytest.mark.parametrize("error", [Transient("PostgreSQL does not respond"), Fatal("another schema")])
async def test_without_the_database_a_post_is_accepted_and_later_look_ups_work(error: Exception) -> None:
    used = UsedVersions()
    used.hashes = table = Table({"a": {"north": "other"}})
    table.answer.set()
    table.error = error
    assert await found(used, [prepared("a", "1")]) == []
    table.error = None
    assert await found(used, [prepared("a", "1")]) == [0]
    used.hashes = None
    assert used.look([prepared("a", "1")]) is None


async def test_the_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_versions, "_RECENT", 2)
    used = UsedVersions()
    assert await found(used, [prepared(name, "1") for name in "abc"]) == []
    assert await found(used, [prepared(name, "2") for name in "cb"]) == [0, 1]
    assert await found(used, [prepared("a", "2")]) == []
