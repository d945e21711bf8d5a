"""The deployment: its status, its profile for a shell, and its Kafka topics."""

import asyncio
from typing import Annotated

import typer

from piepowder import console_output, profile
from piepowder import status as deployment_status
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from shared.kafka import topic_admin

app = options.new_app()


@app.command()
@grouped
def status(connection: ApiConnection) -> None:
    """Show the readiness of the services, the open cases, the decisions and the items."""
    found = connection.profile
    if found.absent is not None and not found.services:
        raise found.absent
    parts, ready = connection.run(deployment_status.status)
    for part in parts:
        console_output.console.print(part)
    raise typer.Exit(0 if ready else 1)


@app.command()
@grouped
def env(connection: ApiConnection) -> None:
    """Write shell commands that export the profile: eval "$(piepowder env)".

    They set PIEPOWDER_INTAKE_URL and one variable like it for each service (and region), PIEPOWDER_KEY,
    PIEPOWDER_PROFILE, and KEY, the API key under a short name for curl.
    """
    found = connection.profile
    if found.absent is not None:
        raise found.absent
    for line in profile.exports(found):
        typer.echo(line)
    if not found.key and found.key_file is None:
        console_output.warn("There is no API key: set PIEPOWDER_KEY, or add `key_file` to the profile.")


@app.command()
@grouped
def topics(
    connection: ApiConnection,
    kafka: options.Kafka = None,
    regions: Annotated[str | None, typer.Option(help="Comma-separated; by default those of the profile")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit status 1 if a topic is missing or differs")
    ] = False,
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
