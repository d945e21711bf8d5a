"""Tasks that run until a service stops."""

import asyncio
from collections.abc import Awaitable, Iterable


class CancelledInsideError(Exception):
    """A task ended as cancelled, but nobody has cancelled it: a library has passed on a cancellation of its own."""


async def run_all(runs: Iterable[Awaitable[None]]) -> None:
    """Run these until all have ended. If one fails, cancel the others, and raise an ExceptionGroup.

    One that ends as cancelled without having been cancelled is a failure (`CancelledInsideError`). A TaskGroup alone
    would continue without it.
    """
    async with asyncio.TaskGroup() as tasks:
        for run in runs:
            tasks.create_task(not_cancelled_inside(run))


async def not_cancelled_inside(run: Awaitable[None]) -> None:
    """Await `run`; raises CancelledInsideError if it ends as cancelled and nobody has cancelled the current task."""
    try:
        await run
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CancelledInsideError("a call in a task of the service has cancelled the task") from error
