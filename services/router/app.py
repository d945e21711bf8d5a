"""Composition root of the router."""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from services.router import api, metrics
from services.router.control import ControlState
from services.router.drain import RegionDrain
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

log = logging.getLogger(__name__)

DESCRIPTION: Final = """Routes each item to a case of its region, by the policy set and the operating model in force.

This API shows, checks and publishes the rules in force; the cases are events on `piepowder.cases.<region>`."""


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    service = Service("router", DESCRIPTION, settings, settings.regions)
    api.include_routes(service.app)
    control = ControlState(service.regions, compile_policy_set)
    metrics.SLOW_CONDITIONS.set_function(lambda: control.slow_conditions)
    drain = RegionDrain(
        settings.bootstrap, settings.decision_by_region, settings.decision_key_file, client_id=service.client_id
    )
    publisher = PublishControl(control, service.producers[settings.kafka], service.clock, drain)
    checker = CheckPublication(control, drain)

    def caught_up() -> str | None:
        api.available_control.provide(service.app, control)
        api.available_publisher.provide(service.app, publisher)
        api.available_checker.provide(service.app, checker)
        return control.caught_up()

    service.follow_control(control.apply, caught_up, control.delete)
    try:
        return await service.run(publisher.run, *(_routing_of(service, control, region) for region in service.regions))
    finally:
        await drain.stop()


def consumer_of(service: Service, control: ControlState, region: str) -> BatchConsumer[Event[Any]]:
    """The consumer of a region's submissions."""
    submissions = RouteSubmissions(
        region=region, rules=lambda: control.rules, producer=service.producer(region), clock=service.clock
    )
    return service.consumer(
        region, reads=[topics.submissions(region)], decode=submissions.decode, handle=submissions.handle
    )


def _routing_of(service: Service, control: ControlState, region: str) -> Loop:
    """Consume a region's submissions while the rules in force have the region."""

    async def routing(stop: asyncio.Event) -> None:
        while True:
            consumer = consumer_of(service, control, region)
            await _first_of(control.wait_complete(), stop)
            if not control.routes(region) and not stop.is_set():
                log.warning("the model does not have the region; its submissions wait", extra={"region": region})
                service.readiness.set(f"consumer {consumer.group}", None)  # this is no fault of the router
            await _first_of(control.wait_for(lambda: control.routes(region)), stop)
            if stop.is_set():
                return
            ended = asyncio.Event()
            watching = asyncio.create_task(_first_of(control.wait_for(lambda: not control.routes(region)), stop))
            watching.add_done_callback(partial(_set, ended))
            try:
                await consumer.run(ended)
            finally:
                watching.cancel()

    return routing


def _set(event: asyncio.Event, _: object) -> None:
    event.set()


async def _first_of(condition: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Wait until the condition holds or `stop` is set."""
    tasks = [asyncio.ensure_future(condition), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
