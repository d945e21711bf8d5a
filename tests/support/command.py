"""Deployments for the tests of the command."""

from typing import Final

from piepowder.profile import Profile

INTAKE_ONLY: Final = Profile(
    services={("intake", ""): "http://intake", ("decision", "eu"): "http://decision"}, key="key"
)
