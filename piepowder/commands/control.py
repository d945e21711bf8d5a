"""The operating model and the policies."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from piepowder import console_output
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped

app = options.new_app("control", "The operating model and the policies in force.")


@app.command()
@grouped
def publish(
    connection: ApiConnection,
    operating_model: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML: regions, markets, queues")
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML: terms and policies in CEL")
    ] = None,
) -> None:
    """Publish an operating model, a policy set or both; they are checked together first."""
    files = {"operating_model": operating_model, "policy_set": policies}
    body = {name: options.read_yaml(path) for name, path in files.items() if path is not None}
    if not body:
        raise typer.BadParameter("name a file with --operating-model, --policies or both.")
    published = connection.run(lambda api: api.post("router", "/v1/control", body))
    for name in body:
        entity = published.get(name) or {}
        state = "now in force" if entity.get("changed") else "was in force already"
        console_output.show(f"{name.replace('_', ' ')} {entity.get('number')} ({entity.get('id')}): {state}")
    for slow in published.get("slow_conditions") or []:
        console_output.show(f"slow condition {slow.get('condition')}: {slow.get('reason')}")


@app.command()
@grouped
def show(connection: ApiConnection) -> None:
    """Show the operating model and the policy set in force, as YAML."""
    found = connection.run(lambda api: api.get("router", "/v1/control"))
    console_output.show(msgspec.yaml.encode(found).decode().rstrip())
