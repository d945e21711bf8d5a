"""Connects the routes of business requests to their store and to the router."""

from fastapi import FastAPI

from services.intake.items.handlers import ItemIntake
from services.intake.requests import api as requests_api
from services.intake.requests.handlers import Requests
from services.intake.requests.router import RouterCheck
from services.intake.requests.store import Store as RequestStore
from services.intake.settings import Settings
from shared.auth.authenticator import Authenticator
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness
from shared.validation import codes


class RequestRoutes:
    """The business requests' part: its routes, open while there is a database."""

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        intake: ItemIntake,
        authenticator: Authenticator,
        *,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._clock = clock
        self._office = requests_api.Office(readiness)
        self._router = RouterCheck(settings.router, settings.router_key_file)
        requests_api.add_routes(
            app,
            office=self._office,
            authenticator=authenticator,
            regions=list(dict.fromkeys(settings.regions)),
            idle_seconds=settings.idle_seconds,
        )

    def open(self, database: Database, relay: Relay) -> None:
        """From now on, answer."""
        self._office.requests = Requests(
            RequestStore(database),
            checker=self._router,
            owners=lambda: self._intake.ownership,
            countries=codes.load().countries,
            clock=self._clock,
            approvals_needed=self._settings.request_approvals,
            wake=relay.wake,
        )

    def close(self) -> None:
        """From now on, answer 503."""
        self._office.requests = None

    async def stop(self) -> None:
        """Close the connections."""
        await self._router.stop()
