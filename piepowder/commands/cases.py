"""The command `review`."""

from functools import partial
from typing import Annotated

import typer

from piepowder import console_output, review, simulation
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped

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
    simulate: Annotated[
        int,
        typer.Option(min=0, max=100, help="Number of simulated reviewers in each region, who review instead of you"),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated reviewers")] = 1,
    for_: Annotated[
        float | None,
        typer.Option("--for", min=0, help="Seconds of the simulation; by default until no case waits"),
    ] = None,
) -> None:
    """Claim and decide cases: by hand, with one letter and Enter per case, or simulated."""
    regions = connection.profile.chosen(region)
    if simulate:
        truth = simulation.read_truth(connection.folder)
        crew = partial(
            simulation.Simulation, regions=regions, each=simulate, seed=seed, truth=truth, queues=queue, team=team
        )
        done = connection.run(lambda api: simulation.simulate(crew(api=api), for_))
        console_output.show(f"Done: {simulation.summary(done)}")
    else:
        decided = connection.run(lambda api: review.by_hand(api, regions[0], reviewer, team, queue))
        actions = {action: n for action, n in decided.items() if action != "skipped"}
        counts = ", ".join(f"{n} {action}" for action, n in sorted(actions.items())) or "no case"
        console_output.show(f"You decided {sum(actions.values())}: {counts}.")
