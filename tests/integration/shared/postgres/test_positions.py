"""Positions in the database, on real Kafka and PostgreSQL: no effect is lost or stored twice after a restore, a zombie,
a reset or a tool's change of the offsets (promises 1 and 5); missing records stop their partition and are named."""

import asyncio
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from typer.testing import CliRunner, Result

from piepowder import positions as commands
from piepowder.cli import app
from shared.contracts import envelope, topics
from shared.contracts.events import LossAccepted
from shared.kafka import gaps, positions
from shared.kafka.gaps import Gap
from shared.kafka.offsets import EndOffsets, LogRange, OffsetClient
from shared.kafka.stored_positions import Move, Moves, StoredPosition
from shared.postgres import position_admin
from shared.postgres import positions as stored_positions
from shared.postgres.database import Database
from shared.postgres.positions import SESSION, PositionTable
from shared.runtime.errors import Transient
from shared.runtime.passwords import without_password
from shared.runtime.user_errors import UserError
from tests.support import recreation
from tests.support.consumer_group import read_all, until
from tests.support.stored_group import StoredGroup


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits."""
    monkeypatch.setattr(positions, "_CHECK_SECONDS", 0.3)
    monkeypatch.setattr(gaps, "_CONFIRM_SECONDS", 0.2)


@pytest.fixture
async def group(kafka: str, region: str, database_url: str) -> AsyncIterator[StoredGroup]:
    async with StoredGroup(kafka, region, database_url) as group:
        yield group


async def accept(group: StoredGroup, first: int, last: int | None, partition: int = 0) -> int:
    return await commands.accept_loss(
        group.kafka,
        database=group.url,
        group=group.name,
        tp=TopicPartition(group.topic, partition),
        first=first,
        last=last,
        by="anna",
        note="posted again",
    )


async def init(group: StoredGroup) -> dict[TopicPartition, int]:
    return await commands.init(group.kafka, database=group.url, group=group.name, by="anna", note="new group")


async def test_a_group_continues_at_the_positions_in_its_database_whatever_a_tool_commits(group: StoredGroup) -> None:
    await group.post("a", "b")
    group.start()
    await group.until_effects(["a", "b"])
    await group.stop()
    await group.post("c", "d")
    await group.commit({0: 4})
    group.start()
    await group.until_effects(["a", "b", "c", "d"])
    assert (await group.positions())[0] == 4


async def test_a_new_database_takes_over_the_offsets_of_an_older_version_once(group: StoredGroup) -> None:
    await group.post("a", "b", "c")
    await group.commit({0: 2, 1: 0})
    group.start()
    await group.until_effects(["c"])
    await group.stop()
    async with group.database.held() as connection:  # an empty database in place of the one with positions
        await connection.execute("TRUNCATE positions, sources, effects")
    group.start()
    await group.until_effects(["a", "b", "c"])


async def test_a_database_that_was_restored_under_a_running_member_reaches_the_same_state(group: StoredGroup) -> None:
    texts = [f"{n}" for n in range(60)]
    await group.post(*texts[:20])
    group.start(batch_records=7)
    await group.until_effects(texts[:20])
    await group.stop()
    await group.database.close()
    name = urlsplit(group.url).path.lstrip("/")
    admin = await asyncpg.connect(group.url.rpartition("/")[0] + "/postgres")
    try:
        await admin.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
        group.database = await Database.connect(group.url, settings=SESSION)
        group.start(batch_records=7)
        await group.post(*texts[20:40])
        await group.until_effects(texts[:40])
        await group.until_committed()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")
    finally:
        await admin.close()
    blocked = asyncio.Event()
    group.before = lambda _: _wait(blocked)
    await group.until_missing("the database is older than the group's offsets, and 20 records are handled again")
    blocked.set()
    await group.post(*texts[40:])
    await group.until_effects(texts)
    await group.until_missing("ok")
    assert REGISTRY.get_sample_value("piepowder_records_behind", {"group": group.name}) == 0


async def back_up(group: StoredGroup) -> None:
    """Copy the database of a stopped group."""
    await _replace_database(group, "{name}_copy", "{name}")


async def restore(group: StoredGroup) -> None:
    """Replace the database of a stopped group by the copy."""
    await _replace_database(group, "{name}", "{name}_copy")


async def _replace_database(group: StoredGroup, new: str, source: str) -> None:
    await group.until_committed()
    await group.stop()
    await group.database.close()
    name = urlsplit(group.url).path.lstrip("/")
    admin = await asyncpg.connect(group.url.rpartition("/")[0] + "/postgres")
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {new.format(name=name)} WITH (FORCE)")
        await admin.execute(f"CREATE DATABASE {new.format(name=name)} TEMPLATE {source.format(name=name)}")
    finally:
        await admin.close()
    group.database = await Database.connect(group.url, settings=SESSION)


async def test_a_second_restore_before_the_first_has_caught_up_reports_all_records_up_to_the_first_loss(
    group: StoredGroup,
) -> None:
    """The group's offsets move back with the restored positions, and must still tell how far the group had been."""
    texts, left = [f"{n}" for n in range(60)], 100

    async def stop_when_none_is_left(_: str) -> None:
        nonlocal left
        if not left:
            raise Transient("the test lets no more batches pass")
        left -= 1

    group.before = stop_when_none_is_left
    await group.post(*texts[:20])
    group.start(batch_records=10)
    await group.until_effects(texts[:20])
    await back_up(group)
    await group.post(*texts[20:])
    group.start(batch_records=10)
    await group.until_effects(texts)
    await restore(group)
    left = 2
    group.start(batch_records=10)
    await group.until_effects(texts[:40])
    await group.until_missing("the database is older than the group's offsets, and 20 records are handled again")
    for _ in range(2):  # the second time, also the offsets of the first restore are all that is known
        await restore(group)
        left = 1
        group.start(batch_records=10)
        await group.until_effects(texts[:30])
        await group.until_missing("the database is older than the group's offsets, and 30 records are handled again")
    left = 100
    await group.until_effects(texts)
    await group.until_missing("ok")
    await group.stop()
    group.start()
    await group.until_missing("ok")
    assert await group.effects() == texts


async def test_a_backup_that_contains_a_reset_is_reported_when_it_is_restored(group: StoredGroup) -> None:
    texts = [f"{n}" for n in range(40)]
    await group.post(*texts[:20])
    group.start()
    await group.until_effects(texts[:20])
    await commands.reset(group.kafka, database=group.url, group=group.name)
    await group.until_effects(texts[:20] * 2)
    assert group.missing() == "ok"
    await back_up(group)
    await group.post(*texts[20:])
    group.start()
    await group.until_effects(texts[:20] * 2 + texts[20:])
    await restore(group)
    blocked = asyncio.Event()
    group.before = lambda _: _wait(blocked)
    group.start()
    await group.until_missing("the database is older than the group's offsets, and 20 records are handled again")
    blocked.set()
    await group.until_effects(texts[:20] * 2 + texts[20:])
    await group.until_missing("ok")


async def test_a_member_that_lost_its_partitions_stores_no_effect_twice(group: StoredGroup) -> None:
    texts = [f"{n}" for n in range(40)]
    held, release = asyncio.Event(), asyncio.Event()

    async def before(instance: str) -> None:
        if instance == "zombie" and not release.is_set():
            held.set()
            await release.wait()

    group.before = before
    for partition in range(6):
        await group.post(*texts[partition::6], partition=partition)
    group.start("zombie", drain_seconds=0.1)
    await held.wait()
    group.start("owner")
    async with asyncio.timeout(40):
        while not await group.effects():  # noqa: ASYNC110 - the condition is in the database
            await asyncio.sleep(0.05)
    release.set()
    await group.until_effects(texts)
    await group.post("last")
    await group.until_effects([*texts, "last"])


async def test_a_reset_lets_a_running_member_handle_all_records_again(group: StoredGroup) -> None:
    await group.post("a", "b", "c")
    group.start()
    await group.until_effects(["a", "b", "c"])
    await group.delete_records(1)
    await commands.reset(group.kafka, database=group.url, group=group.name)
    await group.until_effects(["a", "b", "c", "b", "c"])
    assert group.missing() == "ok", "a reset by an operator is no restore, and a deleted record was handled before"


async def test_a_second_reset_covers_all_records_of_the_first_one(group: StoredGroup) -> None:
    tp, table = TopicPartition(group.topic, 0), PositionTable(group.database)
    await table.save(group.name, {tp: StoredPosition(9, "id")})
    async with position_admin.database(group.url) as connection:
        await position_admin.reset(connection, group.name, {tp: 2})
        assert (await table.read(group.name, [tp]))[tp] == StoredPosition(2, "id", behind_until=-9)
        await position_admin.reset(connection, group.name, {tp: 0})
    stored = (await table.read(group.name, [tp]))[tp]
    assert stored == StoredPosition(0, "id", behind_until=-9)
    assert stored.rereads(9)


async def test_a_reset_of_one_topic_leaves_the_others(group: StoredGroup) -> None:
    tp, other = TopicPartition(group.topic, 0), TopicPartition(topics.decisions(group.region), 0)
    table = PositionTable(group.database)
    await table.save(group.name, {each: StoredPosition(9, "id") for each in (tp, other)})
    assert await commands.reset(group.kafka, database=group.url, group=group.name, topic=tp.topic) == 1
    assert await table.read(group.name, [tp, other]) == {
        tp: StoredPosition(0, "id", behind_until=-9),
        other: StoredPosition(9, "id"),
    }


async def test_a_reset_does_not_hide_records_that_were_deleted_before_they_were_read(group: StoredGroup) -> None:
    tp, table = TopicPartition(group.topic, 0), PositionTable(group.database)
    await table.save(group.name, {tp: StoredPosition(4, "id")})
    async with position_admin.database(group.url) as connection:
        await position_admin.reset(connection, group.name, {tp: 6})
    assert (await table.read(group.name, [tp]))[tp].position == 4


async def test_a_reset_of_a_router_does_not_hide_records_that_were_deleted_before_they_were_read(
    kafka: str, region: str, database_url: str
) -> None:
    async with StoredGroup(kafka, region, database_url, in_kafka=True) as router:
        await router.post("a", "b", "c")
        await router.commit({0: 1})
        await router.delete_records(2)
        await commands.reset(kafka, database=None, group=router.name)
        router.start()
        await router.until_missing(f"{router.topic}[0]: the records 1 to 1 are missing")


async def test_an_operators_change_waits_for_a_move_in_progress(group: StoredGroup) -> None:
    tp, table = TopicPartition(group.topic, 0), PositionTable(group.database)
    await table.save(group.name, {tp: StoredPosition(4, "id")})
    async with position_admin.database(group.url) as connection:
        async with group.database.transaction() as moving:
            await stored_positions.advance(moving, Moves(group.name, [Move(tp.topic, tp.partition, 4, 9)]))
            reset = asyncio.create_task(position_admin.reset(connection, group.name, {tp: 0}))
            await asyncio.sleep(0.3)
            assert not reset.done()
        await reset
    assert (await table.read(group.name, [tp]))[tp] == StoredPosition(0, "id", behind_until=-9)


async def test_records_that_were_deleted_before_they_were_read_stop_their_partition_until_the_loss_is_accepted(
    group: StoredGroup,
) -> None:
    await group.post("a")
    group.start()
    await group.until_effects(["a"])
    await group.stop()
    await group.post("b", "c", "d")
    await group.post("other", partition=1)
    await group.delete_records(3)
    group.start()
    await group.until_missing(f"{group.topic}[0]: the records 1 to 2 are missing")
    await group.until_effects(["a", "other"])
    stopped = {"group": group.name, "topic": group.topic, "reason": "missing-records"}
    assert REGISTRY.get_sample_value("piepowder_stopped_partitions", stopped) == 1
    for first, last in ((0, 2), (1, 3), (1, None), (2, 2)):
        with pytest.raises(UserError, match="name it: 1 2"):
            await accept(group, first, last)
    with pytest.raises(UserError, match="has reported no missing record"):
        await accept(group, 0, 0, partition=1)
    assert await accept(group, 1, 1) == 2
    await group.until_missing(f"{group.topic}[0]: the records 2 to 2 are missing")
    assert await accept(group, 2, 2) == 3
    await group.until_effects(["a", "other", "d"])
    await group.until_missing("ok")
    assert REGISTRY.get_sample_value("piepowder_stopped_partitions", stopped) == 0
    records = await read_all(group.kafka, topics.access(group.region), 2)
    found = [envelope.decode(each.headers, each.key, each.value, region=group.region).data for each in records]
    assert [type(loss) for loss in found] == [LossAccepted, LossAccepted]
    assert [(loss.first, loss.last, loss.continues_at, loss.by) for loss in found] == [
        (1, 1, 2, "anna"),
        (2, 2, 3, "anna"),
    ]


async def test_a_gap_that_has_changed_since_the_command_read_it_is_not_accepted(group: StoredGroup) -> None:
    tp = TopicPartition(group.topic, 0)
    async with position_admin.database(group.url) as connection:
        table = PositionTable(group.database)
        await table.save(group.name, {tp: StoredPosition(1, "id", Gap(gaps.DELETED, 1, 5))})
        for other in (Gap(gaps.DELETED, 1, 6), Gap(gaps.DELETED, 2, 5), Gap(gaps.RECREATED, 1, None)):
            with pytest.raises(UserError, match="Other records are missing"):
                await position_admin.accept_loss(connection, group.name, tp, other, "id")
        assert (await table.read(group.name, [tp]))[tp].position == 1
        await position_admin.accept_loss(connection, group.name, tp, Gap(gaps.DELETED, 1, 5), "id")
        assert (await table.read(group.name, [tp]))[tp] == StoredPosition(5, "id")


async def test_the_command_names_missing_records_with_status_1_and_accepts_exactly_their_loss(
    group: StoredGroup,
) -> None:
    await group.post("a", "b", "c")
    await group.delete_records(2)
    group.start()
    await group.until_missing(f"{group.topic}[0]: the records 0 to 1 are missing")
    servers = ["--database", group.url, "--kafka", group.kafka]
    shown = await command("show", *servers)
    lost = [group.name, group.topic, "0", "0", "1"]
    assert shown.exit_code == 1
    where = ["--database", without_password(group.url)]
    assert " ".join(["positions", "accept-loss", *lost, *where]) in " ".join(shown.output.split())
    assert (await command("accept-loss", *lost[:-1], "all", *servers)).exit_code == 2
    assert isinstance((await command("accept-loss", *lost[:-1], "unknown", *servers)).exception, UserError)
    accepted = await command("accept-loss", *lost, *servers)
    assert (accepted.exit_code, f"{group.topic}[0] at 2" in accepted.output) == (0, True)
    await group.until_effects(["c"])
    assert (await command("show", group.name, *servers)).exit_code == 0
    assert (await command("reset", group.name, "--topic", group.topic, *servers)).exit_code == 0
    await group.until_effects(["c", "c"])
    without_database = await command("reset", group.name, "--kafka", group.kafka)
    assert isinstance(without_database.exception, UserError)
    assert "--database" in str(without_database.exception)


async def ends(group: StoredGroup) -> EndOffsets:
    client = OffsetClient(group.kafka, client_id="test")
    try:
        return await client.ends([group.topic])
    finally:
        await client.stop()


async def command(*arguments: str) -> Result:
    line = ["positions", *arguments]
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, line, env={"PIEPOWDER_DATABASE_URL": None}))


async def test_a_new_group_starts_behind_deleted_records_by_one_command_that_says_so(group: StoredGroup) -> None:
    await group.post("a", "b", "c")
    await group.post("x", "y", partition=2)
    await group.post("n", partition=4)
    await group.delete_records(2)
    await group.delete_records(2, partition=2)
    with pytest.raises(UserError, match="is not known"):
        await init(group)
    group.start()
    await group.until_effects(["n"])
    await group.until_missing(f"{group.topic}[0]: the records 0 to 1 are missing")
    servers = ["--database", group.url, "--kafka", group.kafka]
    shown = await command("show", *servers)
    where = f"--database {without_password(group.url)}"
    assert f"positions init {group.name} {where}" in " ".join(shown.output.split())
    places = {TopicPartition(group.topic, 0): 2, TopicPartition(group.topic, 2): 2}
    assert await init(group) == places
    await group.until_effects(["n", "c"])
    await group.until_missing("ok")
    await group.post("z", partition=2)
    await group.until_effects(["n", "c", "z"])
    found = [
        envelope.decode(r.headers, r.key, r.value, region=group.region).data
        for r in await read_all(group.kafka, topics.access(group.region), 2)
    ]
    assert {(loss.partition, loss.reason, loss.first, loss.last, loss.continues_at, loss.by) for loss in found} == {
        (0, "deleted", 0, 1, 2, "anna"),
        (2, "deleted", 0, 1, 2, "anna"),
    }
    with pytest.raises(UserError, match=rf"has a position in {group.topic}\[0\]: 3"):
        await init(group)
    refused = await command("init", group.name, *servers)
    assert isinstance(refused.exception, UserError)


async def test_a_group_that_has_handled_records_does_not_start_behind_deleted_ones(group: StoredGroup) -> None:
    await group.post("a", "b", "c")
    group.start()
    await group.until_effects(["a", "b", "c"])
    await group.stop()
    async with group.database.held() as connection:  # an empty database: the service's own was lost
        await connection.execute("DELETE FROM positions; DELETE FROM sources")
    await group.delete_records(2)
    group.start()
    await group.until_missing(f"{group.topic}[0]: the records 0 to 1 are missing")
    with pytest.raises(UserError, match="is not new: it has committed offset 3"):
        await init(group)
    assert (await group.positions())[0] == 0


async def test_a_new_router_starts_behind_deleted_records(kafka: str, region: str, database_url: str) -> None:
    async with StoredGroup(kafka, region, database_url, in_kafka=True) as router:
        await router.post("a", "b", "c")
        await router.delete_records(2)
        assert await init(router) == {TopicPartition(router.topic, 0): 2}
        router.start()
        await router.until_effects(["c"])
        await router.until_missing("ok")
        with pytest.raises(UserError, match="has a position"):
            await init(router)


async def test_records_that_are_deleted_under_a_running_member_stop_their_partition(group: StoredGroup) -> None:
    """The records are so large that the client cannot have fetched all of them before."""
    noise, holds, held = random.Random(7), asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        holds.set()
        await held.wait()

    group.before = hold
    for n in range(24):
        await group.post(f"{n} {noise.randbytes(450_000).hex()}")
    group.start(batch_records=1)
    await holds.wait()
    await group.delete_records(20)
    held.set()
    await group.until_missing("to 19 are missing")
    first = len(await group.effects())
    assert 0 < first < 20
    assert f"{group.topic}[0]: the records {first} to 19 are missing" in group.missing()
    assert await accept(group, first, 19) == 20
    await group.until_effects([f"{n}" for n in (*range(first), *range(20, 24))])


async def test_a_topic_that_was_created_again_stops_its_partitions_until_the_loss_is_accepted(
    group: StoredGroup,
) -> None:
    await group.post("a", "b", "c")
    group.start()
    await group.until_effects(["a", "b", "c"])
    await group.recreate_topic()
    await group.until_missing("the topic was deleted and created again")
    await group.post("new-a", "new-b", "new-c", "new-d")
    await asyncio.sleep(1)
    assert await group.effects() == ["a", "b", "c"]
    await group.stop()
    group.start()
    await group.until_missing(f"{group.topic}[0]: the topic was deleted and created again, and the old records from 3")
    for partition in range(6):
        assert await accept(group, 3 if partition == 0 else 0, None, partition) == 0
    await group.until_effects(["a", "b", "c", "new-a", "new-b", "new-c", "new-d"])
    await group.until_missing("ok")


async def test_a_group_has_passed_nothing_of_a_recreated_topic_or_of_a_gap_until_the_loss_is_accepted(
    group: StoredGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old topic's last records may be missing, so an empty new topic does not prove that all was read."""
    table = PositionTable(group.database)
    monkeypatch.setattr(positions, "_CHECK_SECONDS", 600)  # the change is not detected yet
    await group.post("a", "b", "c")
    group.start()
    await group.until_effects(["a", "b", "c"])
    assert await table.has_passed(group.name, await ends(group))
    await group.recreate_topic()
    assert not await table.has_passed(group.name, await ends(group)), "the new topic is empty"
    await group.post("new")
    assert not await table.has_passed(group.name, await ends(group))
    monkeypatch.setattr(positions, "_CHECK_SECONDS", 0.3)
    await group.until_missing("the topic was deleted and created again")
    assert not await table.has_passed(group.name, await ends(group))
    for partition in range(6):
        await accept(group, 3 if partition == 0 else 0, None, partition)
    await group.until_effects(["a", "b", "c", "new"])
    assert await table.has_passed(group.name, await ends(group))

    await group.stop()
    await group.post("d", "e")
    await group.delete_records(3)
    group.start()
    await group.until_missing("the records 1 to 2 are missing")
    assert not await table.has_passed(group.name, await ends(group)), "the log is empty, and two records were not read"


async def test_a_group_is_not_ready_while_its_topic_is_deleted_and_notices_within_seconds_that_it_is_back(
    group: StoredGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the topic, an assignment is empty, and the client itself looks for the topic every 30 seconds."""
    monkeypatch.setattr(positions, "_CHECK_SECONDS", 5.0)
    await group.post("a", "b")
    group.start()
    await group.until_effects(["a", "b"])
    await recreation.delete_topic(group.kafka, group.topic)
    await group.until_missing(f"{group.topic}: the topic does not exist")
    await until(lambda: group.assigned == {"0": []})  # the client has dropped the topic
    await recreation.create_topic(group.kafka, group.topic)
    async with asyncio.timeout(8):
        while f"{group.topic}[0]: the topic was deleted and created again" not in group.missing():
            assert group.missing() != "ok"
            await asyncio.sleep(0.05)
    for partition in range(6):
        await accept(group, 2 if partition == 0 else 0, None, partition)
    await group.post("new")
    await group.until_effects(["a", "b", "new"])
    await group.until_missing("ok")


async def test_a_log_that_ends_below_the_position_stops_its_partition_also_after_it_has_grown(
    group: StoredGroup,
) -> None:
    await group.post("a", "b")
    group.start()
    await group.until_effects(["a", "b"])
    async with group.database.held() as connection:  # as if two more records had been there
        await connection.execute("INSERT INTO positions SELECT consumer_group, topic, 0, 2, 4 FROM positions LIMIT 1")
    await group.until_missing(f"{group.topic}[0]: the records 2 to 3 were read and are no longer in the topic")
    await group.post("c", "d", "e", "f")
    await asyncio.sleep(1)
    await group.stop()
    group.start()
    await group.until_missing(f"{group.topic}[0]: the records 2 to 3 were read and are no longer in the topic")
    assert await group.effects() == ["a", "b"]
    assert await accept(group, 2, 3) == 2
    await group.until_effects(["a", "b", "c", "d", "e", "f"])


async def test_outdated_positions_are_deleted_and_a_group_has_passed_exactly_what_it_has_stored(
    group: StoredGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "_PRUNE_EACH", 10)
    texts = [f"{n}" for n in range(60)]
    await group.post(*texts)
    group.start(batch_records=1)
    await group.until_effects(texts)
    async with group.database.held() as connection:
        count = await connection.fetchval("SELECT count(*) FROM positions WHERE partition = 0")
    assert 0 < count <= 12
    table, tp = PositionTable(group.database), TopicPartition(group.topic, 0)
    end = (await ends(group))[tp]
    assert end == (0, 60, (await table.read(group.name, [tp]))[tp].topic_id)
    assert await table.has_passed(group.name, {tp: end})
    assert not await table.has_passed(group.name, {tp: end._replace(end=61)})
    assert not await table.has_passed(group.name, {tp: end._replace(topic_id="another")})
    assert not await table.has_passed("another", {tp: end})
    assert await table.has_passed("another", {tp: LogRange(0, 0, "new")}), "nothing was ever written"


async def test_without_a_database_missing_records_stop_their_partition_until_the_loss_is_accepted(
    kafka: str, region: str, database_url: str
) -> None:
    async with StoredGroup(kafka, region, database_url, in_kafka=True) as router:
        await router.post("a")
        router.start()
        await router.until_effects(["a"])
        await router.stop()
        await router.post("b", "c")
        await router.delete_records(2)
        router.start()
        await router.until_missing(f"{router.topic}[0]: the records 1 to 1 are missing")
        with pytest.raises(UserError, match="Stop all of its members"):
            await accept(router, 1, 1)
        await router.stop()
        await router.commit({1: 0})  # waits until the group has no member
        assert await accept(router, 1, 1) == 2
        [record] = await read_all(kafka, topics.access(region), 1)
        published = envelope.decode(record.headers, record.key, record.value, region=region)
        assert published.data.continues_at == 2, "the refused command has published nothing"
        router.start()
        await router.until_effects(["a", "c"])
        await router.until_missing("ok")
        await router.recreate_topic()
        await router.until_missing("the topic was deleted and created again")


async def test_a_router_that_starts_after_its_topic_was_recreated_reads_all_of_it_and_another_reader_reports_the_loss(
    kafka: str, region: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with StoredGroup(kafka, region, database_url, in_kafka=True) as router:
        await router.post("a", "b")
        router.start()
        await router.until_effects(["a", "b"])
        await router.stop()
        assert "the group has no offsets of" in caplog.text, "it is new"
        caplog.clear()
        audit = StoredGroup(kafka, region, database_url)
        audit.database = router.database
        audit.start()
        await router.until_effects(["a", "b", "a", "b"])
        await audit.stop()
        router.start()
        await router.until_missing("ok")
        await router.stop()
        assert "the group has no offsets of" not in caplog.text

        await router.recreate_topic()
        await router.post("c")
        router.start()
        await router.until_effects(["a", "b", "a", "b", "c"])
        await router.until_missing("ok")
        assert f"the group has no offsets of {router.topic}" in caplog.text
        audit.start()
        await audit.until_missing(
            f"{router.topic}[0]: the topic was deleted and created again, and the old records from 2"
        )
        await audit.stop()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
