"""Decision after a restore of its database: the state before the loss, no token or id twice (promises 1 to 5)."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import msgspec
import pytest
from aiokafka import TopicPartition

from deploy.local.postgres import LocalPostgres
from services.decision.domain.recovery import TopicContent
from services.decision.store import recovery
from services.decision.store.gate import read_state
from services.decision.store.recovery import RecoveryStore
from shared.contracts import ids, topics
from shared.contracts.envelope import encode
from shared.contracts.events import DECISION_RECOVERED
from shared.kafka.producer import Appended
from shared.kafka.stored_positions import StoredPosition
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.errors import Transient
from tests.support.decision.cases import appealed, encoded, encoded_withdrawal, noticed, opened
from tests.support.decision.restores import Decision, contradictions
from tests.support.service_process import wait_until


@pytest.fixture
async def decision(kafka: str, region: str, database_url: str, tmp_path: Path) -> AsyncIterator[Decision]:
    service = Decision(kafka, region, database_url, tmp_path)
    try:
        yield service
    finally:
        await service.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An empty database of the service."""
    await migrations.upgrade(database_url, "decision")
    opened_database = await Database.connect(database_url)
    try:
        yield opened_database
    finally:
        await opened_database.close()


@pytest.fixture
def store(database: Database) -> RecoveryStore:
    return RecoveryStore(database)


async def work_before(decision: Decision) -> None:
    """Cases in every state, before the backup."""
    region = decision.region
    await decision.post(*(encoded(region, f"before{n}", priority=5 + n % 3) for n in range(12)))
    await decision.post(encoded(region, "policy0", verdict="approve"))
    await decision.until_ingested()
    assert (await decision.decide(await decision.claim(), "reject")).status_code == 201
    await decision.claim("r-2")
    await decision.until_ingested()


async def work_after(decision: Decision) -> None:
    """Every kind of change, to cases of before the backup and to new ones."""
    region = decision.region
    for action in ("approve", "reject"):
        assert (await decision.decide(await decision.claim(), action)).status_code == 201
    assert (await decision.command(await decision.claim(), "release")).status_code == 200
    expiring, _ = await decision.claim("r-9", seconds=5)
    await decision.claim("r-3")
    await wait_until(partial(_is_waiting, decision, expiring))
    await decision.post(
        *(encoded(region, f"before{n}", version=2) for n in (3, 4)),  # newer versions
        encoded_withdrawal(region, "before5"),
        encoded(region, "policy1", verdict="approve"),
        encoded(region, "policy2", verdict="reject"),
        encoded(region, "late", version=2),
        encoded(region, "late", version=1),  # older than the newest one
        encoded_withdrawal(region, "withdrawn"),
        encoded(region, "withdrawn"),
        encode(*noticed(region, "before6")),
        *(encoded(region, f"after{n}", queue="second") for n in range(6)),
    )
    about = opened(region, "policy2", verdict="reject")[1]
    await decision.post(encode(*appealed(region, about, queue="appeals")))
    await decision.until_ingested()
    await decision.post(encode(*appealed(region, about, queue="appeals", reference="2")))  # a duplicate
    await decision.until_ingested()
    assert (await decision.decide(await decision.claim("lead", "appeals"), "overturn")).status_code == 201
    for action in ("approve", "reject"):
        assert (await decision.decide(await decision.claim("r-4", "second"), action)).status_code == 201
    await decision.command(await decision.claim("r-4", "second"), "release")
    await decision.claim("r-5", "second")
    await decision.post(encoded(region, "after5", version=2, queue="second"))
    await decision.until_ingested()


async def _is_waiting(decision: Decision, case_id: str) -> bool:
    [[state]] = await decision.rows("SELECT state FROM cases WHERE case_id = $1", case_id)
    return bool(state == "waiting")


async def test_a_database_restored_under_a_running_service_returns_to_the_state_before_the_loss(
    decision: Decision,
) -> None:
    async with decision.running():
        await work_before(decision)
        await decision.back_up()
        await decision.until_ready()
        await work_after(decision)
        expected = await decision.state()
        published = await decision.published()
        await decision.restore()
        await wait_until(lambda: _recovered(decision, 1))
        assert await decision.state() == expected
        await decision.until_ingested()
        after = await decision.published()
    assert sorted(event.attributes.id for event in after if event.attributes.type != DECISION_RECOVERED) == sorted(
        event.attributes.id for event in published
    )
    assert await decision.rows("SELECT FROM events_without_case") == []


async def _recovered(decision: Decision, incarnation: int) -> bool:
    """True if the service is ready, and open in this incarnation."""
    if not await decision.is_ready() or await decision.condition() != "ok":
        return False
    return bool(await decision.rows("SELECT FROM recovery WHERE incarnation = $1 AND opened_for <> ''", incarnation))


async def test_two_restores_of_one_backup_give_no_token_and_no_id_twice(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        await decision.back_up()
        await decision.until_ready()
        leases: set[tuple[str, int]] = set()
        ids: dict[str, str] = {}
        for incarnation in (1, 2):
            accepted = await decision.claim("r-8")  # published
            await decision.until_ingested()
            async with decision.without_relay():
                lost = [await decision.claim(f"r-9{n}") for n in range(2)]
                for lease, action in ((accepted, "reject"), (lost[0], "approve")):
                    made = await decision.decide(lease, action)
                    assert made.status_code == 201
                    assert ids.setdefault(made.json()["decision_id"], action) == action
                assert leases.isdisjoint({accepted, *lost})
                leases |= {accepted, *lost}
                await decision.restore()
            await wait_until(partial(_recovered, decision, incarnation))
            for lease in lost:
                for refused in (
                    await decision.command(lease, "heartbeat"),
                    await decision.command(lease, "release"),
                    await decision.decide(lease, "reject"),
                ):
                    assert refused.status_code == 409
                    assert refused.json()["type"].endswith("lost-in-restore")
            again = await decision.decide(accepted, "approve")  # its claim was published, its decision was not
            assert again.status_code == 201
            assert ids.setdefault(again.json()["decision_id"], "approve") == "approve"
            await decision.until_ingested()
        metrics = (await decision.http.get("/metrics")).text
        assert f'piepowder_decision_lost_in_restore_total{{region="{decision.region}"}} 12.0' in metrics
        assert contradictions(await decision.published()) == []
        for n in range(8):
            lease = await decision.claim(f"r-1{n}")
            assert lease not in leases
            assert lease[1] >= 2_000_000
            assert (await decision.decide(lease)).status_code == 201
        await decision.until_ingested()
        published = await decision.published()
    assert contradictions(published) == []
    recovered = [event.data.incarnation for event in published if event.attributes.type == DECISION_RECOVERED]
    assert recovered == [1, 2]
    [[last]] = await decision.rows("SELECT last_value FROM outbox_id_seq")
    assert last > 10_000_000  # no new row has the id of a lost one


async def test_an_incarnation_that_the_topic_states_survives_an_interrupted_recovery(database_url: str) -> None:
    """It is stored together with the relay's position: the repeated recovery does not read its record again."""
    await migrations.upgrade(database_url, "decision")
    database = await Database.connect(database_url)
    try:
        store = RecoveryStore(database)
        for offset, stated in enumerate((3, 2, 0)):
            await store.apply("relay", Appended("decisions", 0, offset, offset + 1), TopicContent(incarnation=stated))
            state = await store.state()
            assert (state.incarnation, state.is_incomplete, state.is_open) == (3, True, False)
    finally:
        await database.close()


async def test_a_database_is_opened_only_after_its_own_topic_is_read(store: RecoveryStore) -> None:
    here = (await store.state()).identity
    await store.complete(1, "another database")
    await store.open(here)
    assert not (await store.state()).is_open
    await store.complete(1, here)
    assert not (await store.state()).is_open, "the cases are not read again yet"
    await store.open(here)
    assert (await store.state()).is_open
    await store.set_incomplete()
    await store.open(here)
    assert not (await store.state()).is_open


async def test_a_later_incarnation_in_the_topic_closes_an_open_database(store: RecoveryStore) -> None:
    here = (await store.state()).identity
    await store.complete(1, here)
    await store.open(here)
    await store.apply("relay", Appended("decisions", 0, 0, 1), TopicContent(incarnation=1))
    assert (await store.state()).is_open, "it is this incarnation"
    await store.apply("relay", Appended("decisions", 0, 1, 2), TopicContent(incarnation=2))
    state = await store.state()
    assert (state.incarnation, state.is_incomplete, state.is_read, state.is_open) == (2, True, False, False)


async def test_the_positions_of_a_topic_that_was_created_again_are_set_back(store: RecoveryStore) -> None:
    first, second = (TopicPartition("decisions", n) for n in range(2))
    await store.save_positions("relay", {tp: StoredPosition(9, "old") for tp in (first, second)})
    await store.replace_positions("relay", {first: StoredPosition(4, "new")})
    assert await store.positions("relay", [first, second]) == {
        first: StoredPosition(4, "new"),
        second: StoredPosition(9, "old"),
    }


async def test_positions_are_set_back_as_a_whole_or_not_at_all(store: RecoveryStore) -> None:
    partition = TopicPartition("decisions", 0)
    await store.save_positions("relay", {partition: StoredPosition(9, "old")})
    with pytest.raises(Transient, match="positions_check"):
        await store.replace_positions("relay", {partition: StoredPosition(-1, "new")})
    assert await store.positions("relay", [partition]) == {partition: StoredPosition(9, "old")}


@pytest.mark.parametrize("told", [True, False])
async def test_a_new_incarnation_skips_the_ids_of_the_lost_outbox_also_if_kafka_does_not_tell_its_offset(
    database: Database, store: RecoveryStore, *, told: bool
) -> None:
    here, partition = (await store.state()).identity, TopicPartition("decisions", 0)
    await store.save_positions("relay", {partition: StoredPosition(4, "id")})
    appended = [Appended("decisions", 0, 4, 5)] if told else []  # not for a batch that the client has sent twice
    await store.begin(1, {0: 7}, here, "relay", appended)
    async with database.held() as connection:
        assert await connection.fetchval("SELECT nextval('outbox_id_seq')") > 10_000_000
    assert (await store.state())[:5] == (1, False, here, here, None)
    assert await store.ends() == {0: 7}
    assert (await store.positions("relay", [partition]))[partition].position == (5 if told else 4)


async def test_the_ids_of_all_rows_of_a_large_outbox_are_found(
    database: Database, store: RecoveryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_PAGE", 2)
    headers = [msgspec.msgpack.encode([("ce_id", f"event{n}".encode())]) for n in range(7)]
    async with database.held() as connection:
        await connection.execute(
            "INSERT INTO outbox (shard, topic, key, value, headers)"
            " SELECT n % 3, 'decisions', '', '', headers FROM unnest($1::bytea[]) WITH ORDINALITY AS row (headers, n)",
            headers,
        )
    found = await store.outbox_ids()
    assert found.keys() == {f"event{n}" for n in range(7)}
    assert len(set(found.values())) == 7


async def until_waiting(database: Database, statements: int) -> None:
    """Wait until so many statements wait for the lock of the table `recovery`."""
    enough = "SELECT count(*) >= $1 FROM pg_locks WHERE relation = 'recovery'::regclass AND NOT granted"
    async with database.held() as connection:
        await wait_until(partial(connection.fetchval, enough, statements), seconds=10)


async def test_the_gate_closes_after_the_transactions_that_have_passed_it(
    database: Database, store: RecoveryStore
) -> None:
    for _ in range(12):  # the last statements use a stored plan
        async with database.transaction() as connection:
            await read_state(connection)
    async with database.transaction() as connection:
        assert not (await read_state(connection)).is_incomplete
        closing = asyncio.create_task(store.set_incomplete())
        await until_waiting(database, 1)
        later = asyncio.create_task(store.state())
        await until_waiting(database, 2)
        assert not closing.done()
        assert not later.done()
    await closing
    assert (await later).is_incomplete, "a statement that had to wait reads the result"


async def test_a_dump_of_the_database_does_not_stop_the_recovery(database: Database, store: RecoveryStore) -> None:
    async with database.transaction() as dump:
        await dump.execute("LOCK TABLE recovery IN ACCESS SHARE MODE")  # as pg_dump, until it ends
        async with asyncio.timeout(5):
            await store.set_incomplete()
            assert (await store.state()).is_incomplete


async def test_claims_and_the_relay_stay_closed_until_the_cases_are_read_again(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        await decision.back_up()
        await decision.until_ready()
        lease = await decision.claim("r-6")
        await decision.post(*(encoded(decision.region, f"more{n}") for n in range(30)))
        await decision.until_ingested()
    await decision.restore()
    blocking = await asyncpg.connect(decision.url)
    try:
        transaction = blocking.transaction()
        await transaction.start()
        await blocking.execute("LOCK TABLE subjects IN ACCESS EXCLUSIVE MODE")  # no case can be stored
        async with decision.running(ready=False):
            await wait_until(lambda: _says(decision, "are read again before claims and decisions open"))
            assert not await decision.is_ready()
            refusals = [
                await decision.try_claim("r-7"),
                await decision.decide(lease),
                await decision.command(lease, "heartbeat"),
                await decision.command(lease, "release"),
                await decision.http.get(f"/v1/cases/{ids.derive('not stored again yet')}"),
            ]
            for refused in refusals:
                assert refused.status_code == 503
                assert refused.json()["type"].endswith("recovering")
                assert int(refused.headers["Retry-After"]) > 0
            await transaction.rollback()
            await decision.until_ready()
            assert (await decision.decide(lease)).status_code == 201
            assert (await decision.claim("r-7"))[1] >= 1_000_000
            await decision.until_ingested()
    finally:
        await blocking.close()
    assert len(await decision.rows("SELECT FROM cases WHERE subject LIKE 'shop:product:more%'")) == 30


async def _says(decision: Decision, text: str) -> bool:
    return text in await decision.condition()


async def test_a_start_without_a_restore_begins_no_incarnation_and_publishes_nothing(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        published = await decision.published()
    async with decision.running():
        lease = await decision.claim("r-6")
        assert lease[1] == 1
        await decision.until_ingested()
    assert len(await decision.published()) == len(published) + 1
    assert [row[0] for row in await decision.rows("SELECT incarnation FROM recovery")] == [0]


async def test_a_dump_loaded_into_the_same_database_under_a_running_service_is_noticed(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        await decision.dump()
        await work_after(decision)
        expected = await decision.state()
        async with decision.without_relay():
            lost = await decision.claim("r-8")
            await decision.load()
        await wait_until(partial(_recovered, decision, 1))
        assert await decision.state() == expected
        assert (await decision.command(lost, "heartbeat")).json()["type"].endswith("lost-in-restore")
        assert (await decision.claim("r-8"))[1] >= 1_000_000
        await decision.until_ingested()
    assert contradictions(await decision.published()) == []


@pytest.mark.parametrize("way", ["another database", "the same database"])
async def test_a_claim_that_was_only_returned_is_lost_although_kafka_knows_nothing_about_it(
    decision: Decision, way: str
) -> None:
    async with decision.running():
        await work_before(decision)
        await (decision.dump() if way == "the same database" else decision.back_up())
        await decision.until_ready()
        async with decision.without_relay():
            lost = await decision.claim("r-8")
            await (decision.load() if way == "the same database" else decision.restore())
        await wait_until(partial(_recovered, decision, 1))
        assert (await decision.command(lost, "release")).json()["type"].endswith("lost-in-restore")
        assert await decision.claim("r-8") == (lost[0], 1_000_000)
        await decision.until_ingested()


async def test_older_files_of_the_server_under_a_running_service_are_noticed(
    kafka: str, region: str, tmp_path: Path
) -> None:
    """An older snapshot of the volume: the server, its timeline, the database and the table are the same."""
    server = LocalPostgres(tmp_path / "postgres")
    url = f"{(await asyncio.to_thread(server.start)).rpartition('/')[0]}/snapshot"
    data, copy = server.folder / "data", tmp_path / "copy"
    decision = Decision(kafka, region, url, tmp_path)
    try:
        admin = await asyncpg.connect(server.url)
        await admin.execute("CREATE DATABASE snapshot")
        async with decision.running():
            await work_before(decision)
            await admin.execute("CHECKPOINT")
            await admin.close()
            await decision.claim("r-6")  # the first id after a checkpoint, for which 32 more are logged
            await decision.until_ingested()
            await asyncio.to_thread(subprocess.run, ["cp", "-a", str(data), str(copy)], check=True)
            for _ in range(3):
                assert (await decision.decide(await decision.claim("r-7"), "reject")).status_code == 201
            await decision.until_ingested()
            expected = await decision.state()
            async with decision.without_relay():
                lost = await decision.claim("r-8")
                assert server.child is not None
                await asyncio.to_thread(server.child.kill)
                data.rename(tmp_path / "lost")
                copy.rename(data)
                await asyncio.to_thread(server.start)
            await wait_until(partial(_recovered, decision, 1))
            assert await decision.state() == expected
            assert (await decision.command(lost, "heartbeat")).json()["type"].endswith("lost-in-restore")
            assert await decision.claim("r-8") == (lost[0], 1_000_000)
            await decision.until_ingested()
        assert contradictions(await decision.published()) == []
    finally:
        await decision.close()
        await asyncio.to_thread(server.stop)


async def test_an_event_that_the_backup_has_not_published_yet_is_not_published_again(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        async with decision.without_relay():
            lease = await decision.claim("r-6")
            await decision.back_up()  # ends all connections, so the relay continues
        await decision.until_ready()
        await decision.until_ingested()
        assert (await decision.decide(lease)).status_code == 201
        await decision.until_ingested()
        expected = await decision.state()
        await decision.restore()
        await wait_until(partial(_recovered, decision, 1))
        await decision.until_ingested()
        assert await decision.state() == expected
    ids = [event.attributes.id for event in await decision.published()]
    assert len(ids) == len(set(ids))


async def test_an_event_of_a_newer_version_keeps_claims_closed(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
    claimed = (await decision.published())[0]
    newer = msgspec.structs.replace(claimed.attributes, type="piepowder.case.rerouted.v1")
    await decision.post(encode(newer, claimed.data), topic=topics.decisions(decision.region))
    async with decision.running(ready=False):
        await wait_until(
            lambda: _says(decision, "a newer version of the service has published piepowder.case.rerouted.v1")
        )
        await asyncio.sleep(1.5)  # several repetitions
        assert not await decision.is_ready()
        assert (await decision.try_claim("r-7")).json()["type"].endswith("recovering")


async def test_stopped_partitions_of_cases_do_not_keep_claims_closed(decision: Decision) -> None:
    async with decision.running():
        await work_before(decision)
        await decision.back_up()
        await decision.until_ready()
        await decision.post(*(encoded(decision.region, f"gone{n}") for n in range(30)))
        await decision.until_ingested()
        await decision.delete_cases()
        await decision.restore()
        await wait_until(partial(_may_claim, decision))
        assert not await decision.is_ready()  # records are missing
        assert await decision.condition() == "ok"
    for _ in range(2):  # a start is no second restore
        async with decision.running(ready=False):
            await wait_until(lambda: _says(decision, "ok"))
            assert await _may_claim(decision)
    assert [tuple(row) for row in await decision.rows("SELECT incarnation FROM recovery")] == [(1,)]
    recovered = [event for event in await decision.published() if event.attributes.type == DECISION_RECOVERED]
    assert len(recovered) == 1


async def _may_claim(decision: Decision) -> bool:
    response = await decision.try_claim("r-7")
    if response.status_code != 201:
        return False
    return bool(response.json()["lease"]["token"] >= 1_000_000)
