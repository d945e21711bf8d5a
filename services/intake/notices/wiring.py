"""Connects the routes of notices and appeals to their store."""

from fastapi import FastAPI

from services.intake.items.handlers import ItemIntake
from services.intake.items.queries import Following
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.store import ItemStatusStore
from services.intake.notices import api as notices_api
from services.intake.notices.handlers import Appeals, Notices
from services.intake.notices.store import ComplaintStore
from services.intake.settings import Settings
from shared.auth.authenticator import Authenticator
from shared.postgres.database import Database
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness
from shared.validation import codes


class NoticeRoutes:
    """The notices' and appeals' part: notices are taken in without a database, the rest while there is one."""

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        intake: ItemIntake,
        authenticator: Authenticator,
        *,
        following: Following,
        read_your_writes: ReadYourWrites,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._shelf = notices_api.Shelf(readiness)
        known = codes.load()
        desk = notices_api.Desk(
            notices=Notices(intake, known, clock),
            appeals=Appeals(intake, known, read_your_writes=read_your_writes, clock=clock, days=settings.appeal_days),
            shelf=self._shelf,
            following=following,
            taking_in=lambda: intake.ownership is not None,
            authenticator=authenticator,
            clock=clock,
            idle_seconds=settings.idle_seconds,
        )
        desk.add_to(app)

    def open(self, database: Database, statuses: ItemStatusStore) -> ComplaintStore:
        """From now on, answer; returns where they are kept."""
        self._shelf.complaints = ComplaintStore(database, statuses)
        return self._shelf.complaints

    def close(self) -> None:
        """From now on, answer 503 to all but notices."""
        self._shelf.complaints = None
