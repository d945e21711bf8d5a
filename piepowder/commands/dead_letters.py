"""The command `replay`, for dead letters."""

import asyncio
from typing import Annotated

import typer

from piepowder import replay as dead_letter_replay
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from piepowder.dead_letters import ReplayFilter

app = options.new_app()


@app.command()
@grouped
def replay(
    connection: ApiConnection,
    *,
    kafka: options.Kafka = None,
    region: Annotated[str | None, typer.Option(help="One region; by default all of the profile")] = None,
    group: Annotated[str | None, typer.Option(help="One consumer group, or a service such as decision")] = None,
    key: Annotated[str | None, typer.Option(help="Replay the dead letters of this key (platform:kind:id)")] = None,
    reason: Annotated[str | None, typer.Option(help="Replay the dead letters whose reason contains this text")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Replay all dead letters")] = False,
    leave_failing: Annotated[
        bool,
        typer.Option("--leave-failing", help="Keep the record that parked its key dead-lettered; replay the others"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be replayed, and change nothing")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a group that processes nothing")] = 60.0,
) -> None:
    """Show dead letters; with --key, --reason or --all, replay them in order to the group that failed."""
    if sum([key is not None, reason is not None, all_]) > 1:
        raise typer.BadParameter("name one of --key, --reason and --all.")
    if kafka is not None and region is None:
        raise typer.BadParameter("required with --kafka: the region of the topics to read.", param_hint="--region")
    regions = connection.profile.chosen(region) if kafka is None else options.region_ids(region or "")
    bootstrap = kafka or connection.profile.bootstrap()
    selection = ReplayFilter(group, key, reason)
    if dry_run or not (key is not None or reason is not None or all_):
        found = asyncio.run(dead_letter_replay.find(bootstrap, regions, selection))
        dead_letter_replay.show_units(found, selected=dry_run)
        return
    result = asyncio.run(dead_letter_replay.replay(bootstrap, regions, selection, leave=leave_failing, wait=wait))
    dead_letter_replay.show_result(result, wait)
    raise typer.Exit(0 if result.complete else 1)
