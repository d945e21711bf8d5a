"""The three kinds of failure a consumer tells apart, because each asks for something else.

`Transient` goes away by itself: the same records are tried again in place, so order holds. `Poison` never succeeds: the
record is set aside whole and the consumer goes on. `Fatal` means going on would break a promise: the service stops
without advancing, and its supervisor starts it again.
"""


class PiepowderError(Exception):
    """Base of the errors below; its text is one sentence that a person can act on."""


class Transient(PiepowderError):  # noqa: N818 - the field's word
    """The same call may succeed later (a broker away, a deadlock, a connection cut)."""


class Poison(PiepowderError):  # noqa: N818 - the field's word
    """This record can never be handled; `reason` is what a person reads in the dead-letter topic."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooNew(Poison):
    """This reader does not know such a record yet; a newer one will, so what follows it must not overtake it."""


class Fatal(PiepowderError):  # noqa: N818 - the field's word
    """Going on would break a promise; stop the service and advance nothing."""
