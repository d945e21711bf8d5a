"""The commands for stopped topics."""

import asyncio
from typing import Annotated

import typer

from piepowder import console_output
from piepowder import stopped as stopped_partitions
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from piepowder.stopped import RangeRequest, StopFilter
from shared.runtime.user_errors import UserError

app = options.new_app(
    "stopped", "Topics that a consumer group stopped reading, because it had rejected nearly all records."
)

OneRegion = Annotated[str | None, typer.Option(help="One region; by default all of the profile")]
Group = Annotated[str | None, typer.Option(help="One consumer group, or a service such as router; by default all")]
Topic = Annotated[str, typer.Option(help="The topic, such as piepowder.submissions.eu")]
Partition = Annotated[int | None, typer.Option(min=0, help="One partition; by default all that are stopped")]


@app.command("list")
@grouped
def list_(connection: ApiConnection, *, kafka: options.Kafka = None, region: OneRegion = None) -> None:
    """Show the stopped partitions, with the reasons."""
    bootstrap, regions = _cluster(connection, kafka, region)
    found = asyncio.run(stopped_partitions.find(bootstrap, regions, StopFilter()))
    stopped_partitions.show_stopped(found)


@app.command()
@grouped
def resume(
    connection: ApiConnection,
    *,
    topic: Topic,
    group: Group = None,
    partition: Partition = None,
    kafka: options.Kafka = None,
    region: OneRegion = None,
) -> None:
    """Let groups continue at their next record, after the cause was corrected."""
    bootstrap, regions = _cluster(connection, kafka, region)
    found = asyncio.run(stopped_partitions.resume(bootstrap, regions, StopFilter(topic, group, partition)))
    if not found:
        raise _nothing_stopped()
    for each in found:
        console_output.show(f"{each.place} continues at offset {each.committed}.", "green")


@app.command("dead-letter")
@grouped
def dead_letter(
    connection: ApiConnection,
    *,
    topic: Topic,
    group: Group = None,
    partition: Partition = None,
    first: Annotated[
        int | None, typer.Option(min=0, help="First offset; by default the next that the group reads")
    ] = None,
    last: Annotated[int | None, typer.Option(min=0, help="Last offset; by default the last of the log")] = None,
    only_failing: Annotated[
        bool,
        typer.Option("--only-failing", help="Handle the records, and dead-letter only those that cannot be handled"),
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the dead letters")] = "record storm",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the ranges, and change nothing")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a group that makes no progress")] = 60.0,
    kafka: options.Kafka = None,
    region: OneRegion = None,
) -> None:
    """Dead-letter a range of records of a stopped topic, and let its groups continue behind the range.

    The records can be read and replayed as other dead letters. A repeated command writes none twice.
    """
    if not only_failing and (first is None or last is None):
        raise typer.BadParameter("give --first and --last, or --only-failing.")
    if (first is not None or last is not None) and partition is None:
        raise typer.BadParameter("offsets are those of one partition.", param_hint="--partition")
    if first is not None and last is not None and first > last:
        raise typer.BadParameter(f"{last} is before --first {first}.", param_hint="--last")
    bootstrap, regions = _cluster(connection, kafka, region)
    wanted = StopFilter(topic, group, partition)
    request = RangeRequest(first, last, only_failing, f"dead-lettered by an operator: {reason}")
    if dry_run:
        found = asyncio.run(stopped_partitions.preview(bootstrap, regions, wanted, request))
        if not found:
            raise _nothing_stopped()
        stopped_partitions.show_preview(found)
        return
    results = asyncio.run(stopped_partitions.dead_letter(bootstrap, regions, wanted, request, wait=wait))
    if not results:
        raise _nothing_stopped()
    stopped_partitions.show_results(results, wait)
    raise typer.Exit(0 if all(each.passed for each in results) else 1)


def _cluster(connection: ApiConnection, kafka: str | None, region: str | None) -> tuple[str, list[str]]:
    if kafka is not None and region is None:
        raise typer.BadParameter("required with --kafka: the region of the topics to read.", param_hint="--region")
    regions = connection.profile.chosen(region) if kafka is None else options.region_ids(region or "")
    return kafka or connection.profile.bootstrap(), regions


def _nothing_stopped() -> UserError:
    return UserError(
        "No such partition is stopped, with records to read.",
        "`piepowder stopped list` shows the stopped ones. Other groups dead-letter failing records themselves.",
    )
