"""The command `reconcile`, for items, notices, appeals and withdrawals that stay without effect."""

from typing import Annotated

import typer

from piepowder import reconcile as stuck_items
from piepowder.client import Api
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped

app = options.new_app()


@app.command()
@grouped
def reconcile(
    connection: ApiConnection,
    *,
    kafka: options.Kafka = None,
    region: Annotated[str | None, typer.Option(help="One region; by default all of the profile")] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Only what has been without effect for longer than this")
    ] = 10.0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most in each region, the oldest first")] = 1_000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be published, and change nothing")
    ] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait while no item makes progress")] = 60.0,
) -> None:
    """Publish the last event of each item, notice, appeal and withdrawal without effect again, from the audit log.

    Business requests are not repeated: only audit reads them.
    """
    regions = connection.profile.chosen(region)
    bootstrap = kafka or connection.profile.bootstrap()

    async def work(api: Api) -> bool:
        work = stuck_items.Reconciliation(api, bootstrap, regions, minutes=minutes, limit=limit)
        items, more = await work.find()
        if dry_run:
            stuck_items.show_found(items, more, minutes)
            return True
        result = await work.publish(items, wait)
        result.more = more
        stuck_items.show_result(result, wait)
        return result.complete

    raise typer.Exit(0 if connection.run(work) else 1)
