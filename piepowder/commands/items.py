"""Items: submit a file, withdraw an item, show the timeline of a subject."""

from pathlib import Path
from typing import Annotated

import typer

from piepowder import console_output, submission_files, submission_preview, withdraw
from piepowder import timeline as subject_timeline
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from piepowder.imports.file_options import FileOptions
from piepowder.tally import show_refusals

app = options.new_app()


@app.command()
@grouped
def submit(
    connection: ApiConnection,
    file: Annotated[
        str,
        typer.Argument(
            callback=options.existing_file,
            help="CSV, TSV, XLSX, a product feed (XML), JSON-LD, or items as in POST /v1/items (NDJSON, JSON array);"
            " also compressed with gzip; - reads standard input",
        ),
    ],
    *,
    file_options: FileOptions,
    report: Annotated[
        Path | None,
        typer.Option(
            callback=options.new_file, help="A file for refused lines (NDJSON); by default beside the journal"
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(callback=options.new_file, help="A file for accepted lines (NDJSON); by default in the folder"),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Maximum reasons of refusals to show")] = 20,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the interpretation and the faults that the import finds; send nothing"),
    ] = False,
) -> None:
    """Submit a file to intake; show accepted and refused lines, with line numbers and reasons.

    The interpretation of the file and its first listings are shown before anything is sent.
    """
    with submission_files.open_listings(file, file_options) as listings:
        submission_preview.show_preview(listings)
        if dry_run:
            sendable, refusals = submission_files.read_listings(listings)
            if listings.guess is not None:
                console_output.show(
                    f"The encoding is a guess, which --yes or --encoding {listings.guess.name} confirms."
                )
            console_output.show(f"Nothing was sent: {sendable:,} listings can be sent; refused {refusals.refused:,}.")
            console_output.show(
                "Intake checks them again, and may refuse more."
                if listings.are_values_checked
                else "Only intake checks the fields of these items, so it may refuse some of them."
            )
            show_refusals(refusals, None, show, listings.unit)
            raise typer.Exit(1 if refusals.refused else 0)
        submission_preview.require_confirmation(listings)
        tally, files = connection.run(
            lambda api: submission_files.submit_listings(
                api, listings, connection.folder, journal=journal, report=report
            )
        )
        items = len({item.item_id for item in tally.items})
        console_output.show(f"Accepted {tally.accepted:,} lines, {items:,} different items; refused {tally.refused:,}.")
        show_refusals(tally, files.report, show, listings.unit)
    raise typer.Exit(1 if tally.refused else 0)


@app.command("withdraw")
@grouped
def withdraw_item(
    connection: ApiConnection,
    item: Annotated[str, typer.Argument(metavar="ITEM_ID", help="The id in the response to its post")],
    reason: Annotated[str, typer.Option(help="Stored with the withdrawal")] = "",
) -> None:
    """Withdraw an item: its open cases close, its decisions stay."""
    withdrawn = connection.run(lambda api: withdraw.withdraw(api, item, reason))
    for region, state in sorted(withdrawn.regions.items()):
        console_output.show(f"{console_output.clean(withdrawn.subject)} in {region}: {state}")


@app.command()
@grouped
def timeline(
    connection: ApiConnection,
    subject: Annotated[str, typer.Argument(help="platform:kind:id, or an item's id")],
    region: Annotated[str | None, typer.Option(help="One region; by default all")] = None,
) -> None:
    """Show a subject's events from cause to effect, from the audit log."""
    regions = connection.profile.chosen(region)
    for tree in connection.run(lambda api: subject_timeline.timeline(api, subject, regions)):
        console_output.console.print(tree)
