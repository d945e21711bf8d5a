"""The dependencies of the routes: the callers, and the use cases once the database is connected."""

from typing import Annotated, Final, NamedTuple
from uuid import UUID

from fastapi import Depends, Path, Security

from services.decision.handlers.control import ReasonsInForce
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.leases import LeaseCases
from services.decision.store import Store
from shared.auth.api_key import api_key
from shared.auth.principal import Principal
from shared.http.route import Available


class ReviewService(NamedTuple):
    """The reads and the use cases of a region."""

    region: str
    reads: Store
    leases: LeaseCases
    decisions: DecideCases
    reasons: ReasonsInForce


available_reviews: Final = Available[ReviewService]("reviews")

Reader = Annotated[Principal, Security(api_key, scopes=["reviews:read"])]
Reviewer = Annotated[Principal, Security(api_key, scopes=["reviews:write"])]
Reviews = Annotated[ReviewService, Depends(available_reviews)]
CaseId = Annotated[UUID, Path(description="The id of a case")]
