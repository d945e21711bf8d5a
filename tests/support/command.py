"""A profile for the tests of the command."""

from typing import Final

from piepowder.profile import Profile

TEST_PROFILE: Final = Profile(
    services={("intake", ""): "http://intake", ("decision", "eu"): "http://decision"}, key="key"
)
