"""The commands of consumer positions: show, init, reset, accept-loss."""

import asyncio
import getpass
import os
from typing import Annotated, Final

import typer
from aiokafka import TopicPartition

from piepowder import console_output
from piepowder import positions as consumer_positions
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped

app = options.new_app("positions", "Positions of the consumer groups, and missing records.")

_DATABASE: Final = "PIEPOWDER_DATABASE_URL"
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar=_DATABASE,
        help="The database of audit, decision or intake: postgresql://...; the router has none",
        show_default=False,
    ),
]
Group = Annotated[str, typer.Argument(help="The consumer group, such as piepowder-audit-eu")]


@app.command()
@grouped
def show(
    connection: ApiConnection,
    *,
    group: Annotated[str | None, typer.Argument(help="One consumer group; required for the router")] = None,
    database: DatabaseUrl = None,
    kafka: options.Kafka = None,
) -> None:
    """Show positions and missing records; exit status 1 if records are missing."""
    bootstrap = kafka or connection.profile.bootstrap()
    named = None if database == os.environ.get(_DATABASE) else database  # every command reads the variable

    async def showing() -> bool:
        found = await consumer_positions.find(bootstrap, database=database, group=group)
        return await consumer_positions.show(bootstrap, found, database=named)

    raise typer.Exit(0 if asyncio.run(showing()) else 1)


@app.command()
@grouped
def init(
    connection: ApiConnection,
    *,
    group: Group,
    note: Annotated[str, typer.Option(help="The reason, for the audit log")] = "new group",
    database: DatabaseUrl = None,
    kafka: options.Kafka = None,
) -> None:
    """Let a new group start at the first record that its topics still have, and publish this as events.

    For a new service or region on topics from which Kafka has already deleted records. Start the service once before,
    so that its group is known; the router must be stopped. Refused for a group that has handled a record there.
    """
    positions = asyncio.run(
        consumer_positions.init(
            kafka or connection.profile.bootstrap(), database=database, group=group, by=getpass.getuser(), note=note
        )
    )
    for tp, position in positions.items():
        console_output.show(f"{group} starts in {tp.topic}[{tp.partition}] at {position}; the event is published.")
    if not positions:
        console_output.show(f"The topics of {group} still have all of their records, so it starts at 0 by itself.")


@app.command()
@grouped
def reset(
    connection: ApiConnection,
    *,
    group: Group,
    topic: Annotated[str | None, typer.Option(help="Only this topic")] = None,
    database: DatabaseUrl = None,
    kafka: options.Kafka = None,
) -> None:
    """Let a group handle all records again, which is harmless. The router must be stopped, the others may run."""
    bootstrap = kafka or connection.profile.bootstrap()
    count = asyncio.run(consumer_positions.reset(bootstrap, database=database, group=group, topic=topic))
    console_output.show(f"{group} handles {count} partitions again from their first record.")


@app.command("accept-loss")
@grouped
def accept_loss(
    connection: ApiConnection,
    *,
    group: Group,
    topic: Annotated[str, typer.Argument(help="The topic with missing records")],
    partition: Annotated[int, typer.Argument(min=0, help="Its partition")],
    first: Annotated[int, typer.Argument(min=0, help="Offset of the first missing record")],
    last: Annotated[str, typer.Argument(help="Offset of the last missing record, or unknown")],
    note: Annotated[str, typer.Option(help="The reason, for the audit log")] = "",
    database: DatabaseUrl = None,
    kafka: options.Kafka = None,
) -> None:
    """Accept that a group never handles these records, publish this as an event, and let the group continue.

    `positions show` names the missing records. The router must be stopped, the others may run.
    """
    if last != "unknown" and not last.isdigit():
        raise typer.BadParameter(f"{last!r}: expected an offset, or unknown.", param_hint="LAST")
    continues_at = asyncio.run(
        consumer_positions.accept_loss(
            kafka or connection.profile.bootstrap(),
            database=database,
            group=group,
            tp=TopicPartition(topic, partition),
            first=first,
            last=None if last == "unknown" else int(last),
            by=getpass.getuser(),
            note=note,
        )
    )
    console_output.show(f"{group} continues in {topic}[{partition}] at {continues_at}; the event is published.")
