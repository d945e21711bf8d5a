"""The command `replay`, for dead letters."""

import asyncio
import getpass
import re
from typing import Annotated, Final

import typer

from piepowder import replay as dead_letter_replay
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from piepowder.dead_letters import ReplayFilter
from piepowder.replay import DiscardRequest
from shared.kafka.discards import MAX_WHY

app = options.new_app()

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@app.command()
@grouped
def replay(
    connection: ApiConnection,
    *,
    kafka: options.Kafka = None,
    region: Annotated[str | None, typer.Option(help="One region; by default all of the profile")] = None,
    group: Annotated[str | None, typer.Option(help="Only one consumer group, or a service such as decision")] = None,
    topic: Annotated[str | None, typer.Option(help="Only the dead letters of this topic")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="The dead letter of this record (topic[partition]@offset) or event id")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The dead letters of this key (platform:kind:id)")] = None,
    reason: Annotated[str | None, typer.Option(help="The dead letters whose reason contains this text")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All dead letters")] = False,
    leave_failing: Annotated[
        bool,
        typer.Option("--leave-failing", help="Keep the record that parked its key dead-lettered; replay the others"),
    ] = False,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="Close the dead letters for good; records that wait behind them are replayed"),
    ] = False,
    why: Annotated[
        str | None, typer.Option(help="With --discard: the reason, for the audit log and the status of the item")
    ] = None,
    with_waiting: Annotated[
        bool, typer.Option("--with-waiting", help="With --discard: also discard the records that wait behind them")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a group that processes nothing")] = 60.0,
) -> None:
    """Show dead letters; with --id, --key, --reason or --all, replay them in order to the group that failed, or discard
    them."""
    is_selected = key is not None or reason is not None or id_ is not None or all_
    if sum([key is not None, reason is not None, id_ is not None, all_]) > 1:
        raise typer.BadParameter("name one of --id, --key, --reason and --all.")
    if kafka is not None and region is None:
        raise typer.BadParameter("required with --kafka: the region of the topics to read.", param_hint="--region")
    request = _discard_request(why, discard=discard, with_waiting=with_waiting, dry_run=dry_run)
    if request is not None and leave_failing:
        raise typer.BadParameter("name one of --discard and --leave-failing.")
    if request is not None and not is_selected:
        raise typer.BadParameter("name the dead letters with --id, --key, --reason or --all.", param_hint="--discard")
    regions = connection.profile.chosen(region) if kafka is None else options.region_ids(region or "")
    bootstrap = kafka or connection.profile.bootstrap()
    selection = ReplayFilter(group, key, reason, topic, id_)
    if dry_run or not is_selected:
        only_first = request is not None
        found = asyncio.run(dead_letter_replay.find(bootstrap, regions, selection, only_first=only_first))
        units = [unit for one in found for unit in one.units]
        effect = dead_letter_replay.describe_effect(units, request) if dry_run else ""
        dead_letter_replay.show_units(found, effect=effect)
        return
    if request is None:
        replaying = dead_letter_replay.replay(bootstrap, regions, selection, leave=leave_failing, wait=wait)
    else:
        replaying = dead_letter_replay.discard(bootstrap, regions, selection, request, wait=wait)
    result = asyncio.run(replaying)
    dead_letter_replay.show_result(result, wait)
    raise typer.Exit(0 if result.complete else 1)


def _discard_request(why: str | None, *, discard: bool, with_waiting: bool, dry_run: bool) -> DiscardRequest | None:
    """The request in the options; None without --discard."""
    if not discard:
        for name, is_given in (("--why", why is not None), ("--with-waiting", with_waiting)):
            if is_given:
                raise typer.BadParameter("only with --discard.", param_hint=name)
        return None
    text = (why or "").strip()
    if not text and not dry_run:
        raise typer.BadParameter("required with --discard: the reason, for the audit log.", param_hint="--why")
    if len(text) > MAX_WHY or _CONTROL_CHARACTER.search(text):
        raise typer.BadParameter(f"at most {MAX_WHY} characters, in one line.", param_hint="--why")
    return DiscardRequest(getpass.getuser(), text, with_waiting)
