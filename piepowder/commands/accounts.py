"""The command `account`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.local import account as local_account
from piepowder import console_output, submission_files
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped

app = options.new_app()


@app.command()
@grouped
def account(
    connection: ApiConnection,
    journal: Annotated[
        list[Path], typer.Option(help="Journals of submissions; by default all in the folder")
    ] = options.NONE,
) -> None:
    """Compare the accepted items with Kafka's topics and the audit logs."""
    journals = journal or submission_files.journals(connection.folder)
    result = connection.run(lambda api: local_account.account(api, journals))
    console_output.show(f"Journals: {', '.join(map(str, journals)) or 'none'}")
    local_account.show_account(result, has_submitted=bool(journals))
    raise typer.Exit(0 if result.holds else 1)
