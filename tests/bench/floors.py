"""The floors: the lowest cost of a stage on this machine, with the same bytes and the same durability.

Each returns when its last record is acknowledged or its last row committed, like the stage.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shared.kafka.producer import Record
from tests.bench.kafka import Lanes

Row: TypeAlias = "asyncpg.Record"

AT_A_TIME: Final = 2_000  # records that the services read from Kafka at a time, by default


async def produce(producer: AIOKafkaProducer, lanes: Lanes) -> None:
    """`create_batch`, `append`, `send_batch` for each partition."""
    await asyncio.gather(*(_produce_lane(producer, tp, lane) for tp, lane in lanes.items() if lane))


async def _produce_lane(producer: AIOKafkaProducer, tp: TopicPartition, lane: Sequence[Record]) -> None:
    acknowledgements = []
    batch = producer.create_batch()
    for _, key, value, headers, _ in lane:
        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
            acknowledgements.append(await producer.send_batch(batch, tp.topic, partition=tp.partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None, headers=headers)
    acknowledgements.append(await producer.send_batch(batch, tp.topic, partition=tp.partition))
    await asyncio.gather(*acknowledgements)


async def pass_on(
    consumer: AIOKafkaConsumer,
    begin: Mapping[TopicPartition, int],
    producer: AIOKafkaProducer,
    outputs: Lanes,
    count: int,
) -> None:
    """From the offsets `begin`: `getmany`, the same number of `outputs` to the same partition, `commit`; `count` in
    all."""
    consumer.assign(list(begin))
    for tp, offset in begin.items():
        consumer.seek(tp, offset)
    out = {tp.partition: tp for tp in outputs}
    at = dict.fromkeys(out, 0)
    while count > 0:
        taken: Lanes = {}
        fetched = await consumer.getmany(timeout_ms=200, max_records=AT_A_TIME)
        for tp, lane in fetched.items():
            done, at[tp.partition] = at[tp.partition], at[tp.partition] + len(lane)
            taken[out[tp.partition]] = outputs[out[tp.partition]][done : done + len(lane)]
            count -= len(lane)
        if taken:
            await produce(producer, taken)
            await consumer.commit({tp: lane[-1].offset + 1 for tp, lane in fetched.items()})


async def like(connection: "asyncpg.Connection[Any]", table: str) -> tuple[str, list[str], list[str]]:
    """Make a table like `table` (columns, keys, indexes); its name, its columns, their types."""
    name = f"floor_{table}"
    await connection.execute(f"DROP TABLE IF EXISTS {name}")
    await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
    rows = await connection.fetch(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        table,
    )
    return name, [row[0] for row in rows], [row[1] for row in rows]


async def insert(
    connection: "asyncpg.Connection[Any]", table: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[Row]
) -> None:
    """One `INSERT … SELECT FROM unnest` and one commit for each `AT_A_TIME` rows."""
    names = ", ".join(f'"{column}"' for column in columns)
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types, 1))
    statement = await connection.prepare(f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})")  # noqa: S608 - no input from outside
    for at in range(0, len(rows), AT_A_TIME):
        await statement.fetch(*(list(column) for column in zip(*rows[at : at + AT_A_TIME], strict=True)))


async def copy(connection: "asyncpg.Connection[Any]", table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """One COPY and one commit for each `AT_A_TIME` rows."""
    for at in range(0, len(rows), AT_A_TIME):
        await connection.copy_records_to_table(table, records=map(tuple, rows[at : at + AT_A_TIME]), columns=columns)


def moved(lanes: Lanes, topics: Mapping[str, str]) -> Lanes:
    """The same records by partition, to other topics."""
    return {TopicPartition(topics[tp.topic], tp.partition): lane for tp, lane in lanes.items()}
