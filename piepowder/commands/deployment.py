"""The deployment: its status, and its profile for a shell."""

import typer

from piepowder import console_output, profile
from piepowder import status as deployment_status
from piepowder.commands import options
from piepowder.commands.options import Connection, grouped

app = options.new_app()


@app.command()
@grouped
def status(connection: Connection) -> None:
    """Show which services are ready, what waits, and what was decided."""
    parts, ready = connection.run(deployment_status.status)
    for part in parts:
        console_output.console.print(part)
    raise typer.Exit(0 if ready else 1)


@app.command()
@grouped
def env(connection: Connection) -> None:
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
