"""The local stack: start it, and run the main job on it."""

from typing import Annotated

import typer

from deploy.local import run
from deploy.local import up as local_up
from piepowder.commands import options
from piepowder.imports.file_options import FileOptions
from piepowder.profile import DEFAULT_FOLDER

app = options.new_app()


def _nodes(nodes: int) -> int:
    if nodes == 2:
        raise typer.BadParameter("expected 1 or 3.", param_hint="--nodes")
    return nodes


@app.command()
def up(
    folder: options.StackFolder = DEFAULT_FOLDER, nodes: options.Nodes = 1, regions: options.Regions = "eu,us"
) -> None:
    """Start Kafka, PostgreSQL and all services; Ctrl-C stops them."""
    local_up.up(folder, nodes=_nodes(nodes), regions=options.region_ids(regions))


@app.command("run")
@options.grouped
def run_job(
    file_options: FileOptions,
    *,
    folder: options.StackFolder = DEFAULT_FOLDER,
    nodes: options.Nodes = 1,
    regions: options.Regions = "eu,us",
    file: Annotated[
        str | None,
        typer.Option(callback=options.existing_file, help="Your own file, as for submit; by default a sample"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=5_000_000, help="Lines of the sample")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the sample and the simulated reviewers")] = 1,
    reviewers: Annotated[
        int, typer.Option(min=0, max=100, help="Simulated reviewers in each region; they decide only this run's items")
    ] = 4,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="With --file: let them decide your own listings, too")
    ] = False,
    leave: Annotated[
        int, typer.Option(min=0, help="Approximate number of cases in each region that they leave for you")
    ] = 5,
    review_seconds: Annotated[float, typer.Option(min=0, help="Maximum seconds of their work")] = 60.0,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop after the summary; exit status 0 if every item is accounted for")
    ] = False,
) -> None:
    """Run the main job: start all, submit, review, account; then stay up until Ctrl-C."""
    job = run.Job(
        folder=folder,
        file=file,
        options=file_options,
        count=count,
        seed=seed,
        reviewers=reviewers if file is None or simulate else 0,
        leave=leave,
        review_seconds=review_seconds,
    )
    holds = run.run(job, nodes=_nodes(nodes), regions=options.region_ids(regions), stay=not exit_)
    raise typer.Exit(0 if holds else 1)
