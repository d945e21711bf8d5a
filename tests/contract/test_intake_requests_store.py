"""The store of business requests: the same behaviour in memory and in PostgreSQL, with the schema of the migrations."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, ProposedDifference, Request, RequestTransition
from services.intake.requests.domain.queries import RequestFilter
from services.intake.requests.store import METADATA, Store, cursor_of
from shared.contracts import ids
from shared.contracts.envelope import encode
from shared.contracts.events import BusinessRequest
from shared.postgres import migrations
from shared.postgres.database import Database, sqlalchemy_url
from tests.support.intake_requests import MemoryStore

Kept: TypeAlias = MemoryStore | Store


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Kept]:
    if request.param == "memory":
        yield MemoryStore()
        return
    await migrations.upgrade(database_url, "intake")
    database = await Database.connect(database_url)
    yield Store(database)
    await database.close()


def drafted(
    n: int, *, kind: str = "capacity", sponsor: str = "lead", regions: tuple[str, ...] = ("eu",)
) -> RequestTransition:
    content = BusinessRequest(title=f"Request {n}\u2028", kind=kind, sponsor=sponsor, regions=[*regions])
    check = ChangeCheck(
        verdict=lifecycle.FITS, differing=1, differences=[ProposedDifference(what="policies/a", how="added")]
    )
    at = f"2026-05-01T09:{n // 2:02d}:00.000Z"  # two requests have the same time
    request_id = ids.derive("request", "author", str(n))
    return lifecycle.draft(request_id, content, check, by="author", at=at, approvals_needed=2)


async def keep(store: Kept, outcome: RequestTransition, *, change: bytes | None = None, body: str = "b") -> bool:
    async with store.work() as work:
        is_new = await work.add(outcome.request, change, body)
        if is_new:
            await work.add_step(outcome.request.request_id, outcome.step)
            await work.publish([("piepowder.requests.eu", encode(e.attributes, e.data)) for e in outcome.events])
    return is_new


async def test_a_request_is_stored_as_created_and_as_changed(store: Kept) -> None:
    begun = drafted(1)
    name = begun.request.request_id
    assert await store.request(name) is None
    assert await store.drafted(name) is None
    assert await keep(store, begun, change=b'{"a": "\\u0000"}', body="hash")
    assert not await keep(store, drafted(1), body="other"), "an existing request stays unchanged"
    assert await store.request(name) == (begun.request, b'{"a": "\\u0000"}', [begun.step])

    said = lifecycle.comment(
        begun.request, ids.derive("comment", "1"), "How?\n'\\x", by="lead", at=begun.request.updated_at
    )
    async with store.work() as work:
        assert await work.request(name) == begun.request
        assert await work.comment(said.step.comment_id) is None
        await work.save(said.request)
        await work.attach(name, None)
        await work.add_step(name, said.step)
    async with store.work() as work:
        assert await work.comment(said.step.comment_id) == said.step
    assert await store.request(name) == (said.request, None, [begun.step, said.step])
    assert await store.drafted(name) == (begun.request, "hash")


async def test_a_failed_transaction_stores_nothing(store: Kept) -> None:
    begun = drafted(1)
    with pytest.raises(RuntimeError, match="in the middle"):
        await fail_in_the_middle(store, begun)
    assert await store.request(begun.request.request_id) is None
    assert await keep(store, begun)


async def fail_in_the_middle(store: Kept, outcome: RequestTransition) -> None:
    async with store.work() as work:
        await work.add(outcome.request, None, "b")
        await work.add_step(outcome.request.request_id, outcome.step)
        raise RuntimeError("in the middle")


async def test_concurrent_changes_of_a_request_are_serialized(store: Kept) -> None:
    begun = drafted(1)
    await keep(store, begun)

    async def say(n: int) -> None:
        async with store.work() as work:
            request = await work.request(begun.request.request_id)
            assert request is not None
            said = lifecycle.comment(request, ids.derive("comment", str(n)), f"{n}", by="a", at=request.updated_at)
            await asyncio.sleep(0.001)
            await work.save(said.request)
            await work.add_step(request.request_id, said.step)

    await asyncio.gather(*(say(n) for n in range(10)))
    found = await store.request(begun.request.request_id)
    assert found is not None
    assert found[0].version == 11
    assert [step.version for step in found[2]] == [*range(1, 12)]


async def test_concurrent_creations_of_the_same_request_create_one(store: Kept) -> None:
    assert sorted(await asyncio.gather(*(keep(store, drafted(1)) for _ in range(8)))) == [False] * 7 + [True]


async def test_lists_are_newest_first_filtered_and_paged(store: Kept) -> None:
    all_of: list[Request] = []
    for n in range(12):
        begun = drafted(
            n,
            kind="capacity" if n % 3 else "policy_change",
            sponsor="a" if n % 2 else "b",
            regions=("eu",) if n % 4 else ("us", "eu"),
        )
        await keep(store, begun)
        all_of.insert(0, begun.request)
    submitted = lifecycle.submit(all_of[3], None, ChangeCheck(), by="author", reason="", at="", approvals_needed=2)
    assert submitted is not None
    async with store.work() as work:
        await work.save(submitted.request)
    all_of[3] = submitted.request
    all_of.sort(key=cursor_of, reverse=True)

    def like(wanted: RequestFilter) -> list[Request]:
        return [
            request
            for request in all_of
            if (wanted.state is None or request.state == wanted.state)
            and (wanted.kind is None or request.content.kind == wanted.kind)
            and (wanted.sponsor is None or request.content.sponsor == wanted.sponsor)
            and (wanted.region is None or wanted.region in request.content.regions)
            and (wanted.regions is None or {*wanted.regions} & {*request.content.regions})
        ]

    for wanted in (
        RequestFilter(),
        RequestFilter(state="submitted"),
        RequestFilter(kind="capacity", sponsor="a"),
        RequestFilter(region="us"),
        RequestFilter(regions=["us", "uk"]),
        RequestFilter(regions=[]),
        RequestFilter(regions=["uk"], state="draft"),
    ):
        expected, found, after = like(wanted), list[Request](), None
        while page := await store.page(wanted, after, 3):
            found += page
            after = cursor_of(page[-1])
        assert found == expected


async def test_the_schema_equals_the_migrations_and_the_history_is_append_only(database_url: str) -> None:
    await migrations.upgrade(database_url, "intake")
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), METADATA)
        )
    await engine.dispose()
    ours = {"requests", "request_steps"}
    assert [difference for difference in found if getattr(difference[1], "name", "") in ours] == []
    bare = await asyncpg.connect(database_url)
    try:
        for tampering in ("UPDATE request_steps SET kind = 'x'", "DELETE FROM request_steps", "TRUNCATE request_steps"):
            with pytest.raises(asyncpg.RaiseError, match="only appended to"):
                await bare.execute(tampering)
    finally:
        await bare.close()


def test_rows_of_an_earlier_release_can_be_read() -> None:
    """The oldest form of a stored request: a field that is added later has a default."""
    stored = (
        b'{"request_id":"0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10","version":1,"state":"draft","content":{"title":"x",'
        b'"kind":"capacity","regions":["eu"]},"check":{},"drafted":{"by":"a","at":"2026-05-01T09:30:00.000Z"},'
        b'"updated_at":"2026-05-01T09:30:00.000Z","authors":["a"],"approvals_needed":2}'
    )
    assert msgspec.json.decode(stored, type=Request).content.title == "x"
