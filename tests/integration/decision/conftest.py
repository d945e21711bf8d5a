"""The decision service on the test's own database."""

from collections.abc import AsyncIterator

import pytest

from tests.support.decision.service import Service, running


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """The use cases on PostgreSQL."""
    async with running(database_url) as parts:
        yield parts
