"""The form of a region's id."""

import re


def check_region(region: str) -> str:
    """Return `region` if it has the form of a region's id; raise ValueError with the expected form otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", region):
        raise ValueError("a region is 1 to 31 of a-z, 0-9 and '-', and starts with a letter")
    return region
