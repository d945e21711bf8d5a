"""The command `piepowder`. Each noun's module is loaded when one of its commands runs, so that the help appears fast.

Exit status: 0 done; 1 done, with a negative result (lines refused, items not accounted for, topics that differ);
2 not possible; 130 interrupted.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from shared.runtime.errors import Transient
from shared.runtime.user_errors import UserError, sentence

COMMANDS: Final = {  # name -> module, summary
    "up": ("local_stack", "Start Kafka, PostgreSQL and all services."),
    "run": ("local_stack", "Run the main job: start all, submit, review, account."),
    "submit": ("items", "Submit a file of listings to intake."),
    "review": ("cases", "Claim and decide cases, by hand or simulated."),
    "status": ("deployment", "Show readiness, open cases, decisions and items."),
    "timeline": ("items", "Show a subject's events, from the audit log."),
    "withdraw": ("items", "Withdraw an item."),
    "account": ("accounts", "Check that every accepted item is accounted for."),
    "env": ("deployment", "Export addresses and key to a shell."),
    "sample": ("samples", "Write a sample of items (NDJSON)."),
    "topics": ("deployment", "Create missing Kafka topics; show differences."),
    "replay": ("dead_letters", "Show dead letters, and replay them."),
    "stopped": ("stopped", "Topics that a group stopped reading: resume them, dead-letter records."),
    "positions": ("positions", "Positions of the consumer groups, and missing records."),
    "reconcile": ("reconciliation", "Repair items, notices, appeals and withdrawals without effect."),
    "control": ("control", "The operating model and the policies in force."),
    "clients": ("clients", "API clients: keys, scopes, regions, platforms, limits."),
    "request": ("requests", "Business requests: propose a change and decide it."),
}


@contextmanager
def _full_sentences() -> Iterator[None]:
    """Let a usage error end with a full stop, also one that typer writes itself."""
    try:
        yield
    except TyperException as wrong:
        if isinstance(message := getattr(wrong, "message", None), str):
            wrong.message = sentence(message)
        raise


class _LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": dict.fromkeys(COMMANDS)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
        if cmd_name not in COMMANDS:
            return None
        app = importlib.import_module(f"piepowder.commands.{COMMANDS[cmd_name][0]}").app
        group = get_group(app)
        return group if app.info.name == cmd_name else group.commands[cmd_name]

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _full_sentences():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _full_sentences():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


app = typer.Typer(
    name="piepowder",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only here

        typer.echo(f"piepowder {version('piepowder')}")
        raise typer.Exit


@app.callback()
def piepowder(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Moderation for a marketplace that trades in many regions: a client of any deployment, and a local stack."""


def main() -> None:
    """Run the command; an expected failure gives one sentence and exit status 2, no traceback."""
    try:
        app()
    except (UserError, Transient, ExceptionGroup) as failed:
        from piepowder.console_output import show_error  # noqa: PLC0415 - the help must appear fast
        from piepowder.hints import runnable  # noqa: PLC0415 - the same

        show_error(runnable(str(_expected(failed))))
        sys.exit(2)


def _expected(failed: Exception) -> Exception:
    """The expected failure inside groups of exceptions; raises any other exception."""
    while isinstance(failed, ExceptionGroup):
        failed = failed.exceptions[0]
    if not isinstance(failed, UserError | Transient):
        raise failed
    return failed
