"""Composition root of the router."""

import asyncio
from typing import Any, Final

from services.router import api
from services.router.control import ControlState
from services.router.handlers.check import CheckPublication
from services.router.handlers.publication import PublishControl
from services.router.handlers.routing import RouteSubmissions
from services.router.policies import compile_policy_set
from services.router.settings import Settings
from shared.contracts import topics
from shared.contracts.envelope import Event
from shared.kafka.consumer import BatchConsumer
from shared.runtime.lifecycle import Loop
from shared.service import Service

DESCRIPTION: Final = """Routes each item to a case of its region, by the policy set and the operating model in force.

This API shows, checks and publishes the rules in force; the cases are events on `piepowder.cases.<region>`."""


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    service = Service("router", DESCRIPTION, settings, settings.regions)
    api.include_routes(service.app)
    control = ControlState(service.regions, compile_policy_set)
    publisher = PublishControl(control, service.producers[settings.kafka], service.clock)
    checker = CheckPublication(control)

    def on_caught_up() -> str | None:
        api.available_control.provide(service.app, control)
        api.available_publisher.provide(service.app, publisher)
        api.available_checker.provide(service.app, checker)
        return control.missing()

    service.follow_control(control.apply, on_caught_up, control.delete)
    consumers = [consumer_of(service, control, region) for region in service.regions]
    return await service.run(*(_when_in_force(control, consumer) for consumer in consumers))


def consumer_of(service: Service, control: ControlState, region: str) -> BatchConsumer[Event[Any]]:
    """The consumer of a region's submissions."""
    submissions = RouteSubmissions(
        region=region, rules=lambda: control.rules, producer=service.producer(region), clock=service.clock
    )
    return service.consumer(
        region, reads=[topics.submissions(region)], decode=submissions.decode, handle=submissions.handle
    )


def _when_in_force(control: ControlState, consumer: BatchConsumer[Event[Any]]) -> Loop:
    """Start the consumer when an operating model and a policy set are in force."""

    async def routing(stop: asyncio.Event) -> None:
        tasks = [asyncio.ensure_future(control.wait_complete()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if not stop.is_set():
            await consumer.run(stop)

    return routing
