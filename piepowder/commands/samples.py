"""The command `sample`."""

import sys
from typing import Annotated

import typer

from deploy.local import sample as generator
from piepowder.commands import options

app = options.new_app()


@app.command()
def sample(
    count: Annotated[int, typer.Option(min=1, help="Lines")] = 5000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same lines")] = 1,
) -> None:
    """Write a sample of items to standard output (NDJSON)."""
    for line in generator.make(count, seed):
        sys.stdout.buffer.write(line.body + b"\n")
