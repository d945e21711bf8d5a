"""Kafka topics."""

import asyncio
from typing import Annotated

import typer

from piepowder import console_output
from piepowder.commands import options
from piepowder.commands.options import Connection, grouped
from shared.kafka import topic_admin

app = options.new_app()


@app.command()
@grouped
def topics(
    connection: Connection,
    kafka: options.Kafka = None,
    regions: Annotated[str | None, typer.Option(help="Comma-separated; by default those of the profile")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if something differs")] = False,
) -> None:
    """Create missing topics of the regions; show differences from deploy/kafka/topics.yaml."""
    names = connection.profile.chosen(None) if regions is None else options.region_ids(regions)
    wanted = topic_admin.expand(topic_admin.load(), names)
    bootstrap = kafka or connection.profile.bootstrap()
    report = asyncio.run(topic_admin.ensure(bootstrap, wanted, create=not check))
    for name in report.created:
        console_output.show(f"created  {name}", "green")
    for name in report.present:
        console_output.show(f"present  {name}")
    for difference in report.differences:
        console_output.show(difference, "yellow")
    raise typer.Exit(1 if report.missing or (check and report.differences) else 0)
