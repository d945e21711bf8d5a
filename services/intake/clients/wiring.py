"""Connects the clients' routes to their store."""

from fastapi import FastAPI

from services.intake.clients import api as clients_api
from services.intake.clients.handlers import Registry
from services.intake.clients.store import Store as ClientStore
from services.intake.settings import Settings
from shared.auth.authenticator import Authenticator
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness


class ClientRoutes:
    """The clients' part: its routes, open while there is a database."""

    def __init__(
        self, app: FastAPI, settings: Settings, authenticator: Authenticator, *, readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._clock = clock
        self._reception = clients_api.Reception(readiness)
        clients_api.add_routes(app, self._reception, authenticator, clock)

    def open(self, database: Database, relay: Relay) -> ClientStore:
        """From now on, answer; returns where they are kept."""
        store = ClientStore(database)
        self._reception.registry = Registry(
            store,
            in_force=self._authenticator,
            environment=self._settings.environment,
            wake=relay.wake,
            clock=self._clock,
        )
        return store

    def close(self) -> None:
        """From now on, answer 503."""
        self._reception.registry = None
