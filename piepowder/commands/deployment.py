"""The deployment: its status, and its profile for a shell."""

import typer

from piepowder import console_output, profile
from piepowder import status as deployment_status
from piepowder.commands import options
from piepowder.commands.options import Connection, connected

app = options.new_app()


@app.command()
@connected
def status(connection: Connection) -> None:
    """Show which services are ready, what waits, and what was decided."""
    parts, ready = connection.run(deployment_status.status)
    for part in parts:
        console_output.console.print(part)
    raise typer.Exit(0 if ready else 1)


@app.command()
@connected
def env(connection: Connection) -> None:
    """Write shell commands that export the profile: eval "$(piepowder env)".

    They set PIEPOWDER_INTAKE_URL and one variable like it for each service (and region), PIEPOWDER_KEY,
    PIEPOWDER_PROFILE, and KEY, the API key under a short name for curl.
    """
    connection.profile.chosen(None)
    for line in profile.exports(connection.profile):
        typer.echo(line)
