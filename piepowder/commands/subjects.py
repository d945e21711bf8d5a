"""Subjects: their timeline."""

from typing import Annotated

import typer

from piepowder import console_output
from piepowder import timeline as subject_timeline
from piepowder.commands import options
from piepowder.commands.options import Connection, grouped

app = options.new_app()


@app.command()
@grouped
def timeline(
    connection: Connection,
    subject: Annotated[str, typer.Argument(help="platform:kind:id, or an item's id")],
    region: Annotated[str | None, typer.Option(help="One region; by default all")] = None,
) -> None:
    """Show a subject's events from cause to effect, from the audit log."""
    regions = connection.profile.chosen(region)
    for tree in connection.run(lambda api: subject_timeline.timeline(api, subject, regions)):
        console_output.console.print(tree)
