"""The command `review`."""

from functools import partial
from typing import Annotated

import typer

from piepowder import console_output, review, simulation
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped, named_faults

app = options.new_app()


@app.command("review")
@grouped
def review_cases(
    connection: ApiConnection,
    *,
    region: Annotated[
        str | None, typer.Option(help="Region of the cases; by default the first, with --simulate all")
    ] = None,
    queue: Annotated[list[str], typer.Option(help="Claim only from this queue; may be repeated")] = options.NONE,
    reviewer: Annotated[str, typer.Option(help="Your name in the decisions")] = "me",
    team: Annotated[str, typer.Option(help="Your team")] = "in_house",
    confirm: Annotated[bool, typer.Option("--confirm", help="Ask before each decision, also before approvals")] = False,
    simulate: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Number of simulated reviewers in each region, who decide every waiting case instead of you",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated reviewers")] = 1,
    for_: Annotated[
        float | None,
        typer.Option("--for", min=0, help="Seconds of the simulation; by default until no case waits"),
    ] = None,
) -> None:
    """Claim and decide cases: by hand, with a letter and Enter, rejections with a confirmation; or simulated."""
    regions = connection.profile.chosen(region)
    if simulate:
        truth = simulation.read_truth(connection.folder)
        crew = partial(
            simulation.Simulation, regions=regions, each=simulate, seed=seed, truth=truth, queues=queue, team=team
        )
        done = connection.run(lambda api: simulation.simulate(crew(api=api), for_))
        console_output.show(f"Done: {simulation.summary(done)}")
    else:
        with named_faults({"/queues": "--queue"}):
            connection.run(lambda api: review.by_hand(api, regions[0], reviewer, team, queue, confirm=confirm))
