"""Supervision of a service: its web server and its loops run side by side until a signal, then drain in bounded time.

A failed loop stops the whole service with status 1: a restart by the supervisor is better than a service that only
appears to work.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Protocol, TypeAlias, TypeVar

from shared.runtime import logs
from shared.runtime.errors import PiepowderError
from shared.runtime.garbage import collect_when_idle, stop_automatic_collections
from shared.runtime.readiness import Readiness
from shared.runtime.settings import CommonSettings, load
from shared.runtime.tasks import not_cancelled_inside

log = logging.getLogger(__name__)

S = TypeVar("S", bound=CommonSettings)

Loop: TypeAlias = Callable[[asyncio.Event], Awaitable[None]]
"""A coroutine function that runs until the event is set."""


class Server(Protocol):
    """A web server: `serve` returns after `should_exit` was set and open requests have ended."""

    should_exit: bool

    async def serve(self) -> None: ...


async def supervise(server: Server, loops: Sequence[Loop], drain_seconds: float, readiness: Readiness) -> bool:
    """Run `server` and `loops` until SIGTERM, SIGINT or the end of one of them; True for a normal stop.

    After `drain_seconds` and two more seconds, tasks that have not ended are cancelled.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    failures: list[BaseException] = []

    async def watch(name: str, run: Awaitable[None]) -> None:
        try:
            await not_cancelled_inside(run)
        except (Exception, SystemExit) as failure:
            for error in _leaves(failure):
                failures.append(error)
                known = isinstance(error, PiepowderError)
                log.error("%s failed: %s", name, error if known else repr(error), exc_info=None if known else error)
        finally:
            stop.set()

    async def listen() -> None:
        await server.serve()
        if not stop.is_set() and not server.should_exit:
            raise SystemExit(1)

    stop_automatic_collections()
    running = [*loops, collect_when_idle]
    tasks = [asyncio.create_task(watch(getattr(loop, "__qualname__", "loop"), loop(stop))) for loop in running]
    tasks.append(asyncio.create_task(watch("web server", listen())))
    await stop.wait()
    readiness.set("lifecycle", "stopping")
    log.info("stopping", extra={"drain_seconds": drain_seconds})
    server.should_exit = True
    _, late = await asyncio.wait(tasks, timeout=drain_seconds + 2)
    for task in late:
        task.cancel()
    if late:
        log.warning("%d task(s) did not end in time and were cancelled; uncommitted work will be repeated", len(late))
        await asyncio.wait(late, timeout=2)
    return not failures


def _leaves(failure: BaseException) -> list[BaseException]:
    """The exceptions inside nested exception groups."""
    if not isinstance(failure, BaseExceptionGroup):
        return [failure]
    return [leaf for inner in failure.exceptions for leaf in _leaves(inner)]


def main(service: str, kind: type[S], run: Callable[[S], Coroutine[object, object, bool]]) -> None:
    """Entry point of `python -m services.<name>`: settings, logs, uvloop where available, an exit status."""
    settings = load(kind)
    logs.configure(service, settings.log_level)
    log.info("starting", extra={"python": sys.version.split()[0]})
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:  # not available on this platform; asyncio's own loop is slower
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        with runner:
            ended_well = runner.run(run(settings))
    except PiepowderError as error:  # a start-up error that a retry does not solve
        log.error("the service cannot start: %s", error)
        sys.exit(2)
    log.info("stopped", extra={"ended_well": ended_well})
    sys.exit(0 if ended_well else 1)
