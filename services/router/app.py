"""The composition root of the router."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from services.router import api
from services.router.control import ControlState
from services.router.domain.routing import SOURCE
from services.router.handlers.check import CheckPublication
from services.router.handlers.publication import PublishControl
from services.router.handlers.routing import RouteSubmissions
from services.router.policies import compile_policy_set
from services.router.settings import Settings
from shared.auth.access_log import Access
from shared.contracts import topics
from shared.contracts.envelope import Event
from shared.http import server
from shared.http.app import create_app
from shared.kafka import consumers
from shared.kafka.consumer import BatchConsumer
from shared.kafka.producer import KafkaProducer
from shared.runtime.clock import SystemClock
from shared.runtime.lifecycle import Loop
from shared.runtime.readiness import Readiness

DESCRIPTION = """Routes each item to a case of its region, by the policy set and the operating model in force.

This API shows, checks and publishes the rules in force; the cases are events on `piepowder.cases.<region>`."""


async def run(settings: Settings) -> bool:
    """Route submissions until a signal stops the service; True if it stopped without an error."""
    clock = SystemClock()
    readiness = Readiness("router")
    control = ControlState(settings.regions, compile_policy_set)
    producers = {
        bootstrap: KafkaProducer(bootstrap, client_id=f"piepowder-router-{settings.instance}")
        for bootstrap in {settings.kafka, *map(settings.bootstrap, settings.regions)}
    }
    access = Access(
        settings,
        service="router",
        source=SOURCE,
        producers={region: producers[settings.bootstrap(region)] for region in settings.regions},
        readiness=readiness,
        clock=clock,
    )
    app = create_app("router", DESCRIPTION, readiness)
    app.state.authenticator = access.authenticator
    app.include_router(api.router)
    publisher, checker = PublishControl(control, producers[settings.kafka], clock), CheckPublication(control)

    def on_caught_up() -> str | None:
        api.available_control.provide(app, control)
        api.available_publisher.provide(app, publisher)
        api.available_checker.provide(app, checker)
        return control.missing()

    reader = access.control_reader(control.apply, on_caught_up, control.delete)

    def consumer(region: str) -> BatchConsumer[Event[Any]]:
        producer = producers[settings.bootstrap(region)]
        handlers = RouteSubmissions(region=region, rules=lambda: control.rules, producer=producer, clock=clock)
        return consumers.consumer(
            settings,
            region,
            group=f"piepowder-router-{region}",
            reads=[topics.submissions(region)],
            decode=handlers.decode,
            handle=handlers.handle,
            producer=producer,
            readiness=readiness,
            clock=clock,
        )

    try:
        routing = [_when_in_force(control, consumer(region).run) for region in settings.regions]
        return await server.serve(app, settings, [reader.run, access.run, *routing], readiness)
    finally:
        await asyncio.gather(*(producer.stop() for producer in producers.values()))


def _when_in_force(control: ControlState, consume: Callable[[asyncio.Event], Awaitable[None]]) -> Loop:
    """Start `consume` when an operating model and a policy set are in force."""

    async def routing(stop: asyncio.Event) -> None:
        tasks = [asyncio.ensure_future(control.wait_complete()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if not stop.is_set():
            await consume(stop)

    return routing
