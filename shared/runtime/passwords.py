"""Removal of passwords from text that is shown or logged."""

import re
from typing import Final

_PASSWORD: Final = re.compile(r"(?<=://)(?P<user>[^:/?#]*):[^/?#]*(?=@)|(?P<before>[?&])password=[^&]*&?")


def without_password(url: str) -> str:
    """The URL of a database without its password, also if it is a parameter."""
    return _PASSWORD.sub(lambda found: found["user"] or found["before"] or "", url).rstrip("?&")
