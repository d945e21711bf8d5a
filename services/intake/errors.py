"""Exceptions that several areas share."""

from shared.runtime.errors import PiepowderError


class UnknownObject(PiepowderError):  # noqa: N818 - a fact about the object
    """The caller has no such item, notice, appeal or decision in its regions and platforms."""
