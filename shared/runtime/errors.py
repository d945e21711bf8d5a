"""The three kinds of failure. A consumer reacts to each in a different way.

`Transient`: the consumer tries the same records again in place, so their order is kept. `Poison`: the record can never
succeed; the consumer dead-letters it whole and continues. `Fatal`: the service cannot continue without breaking a
guarantee; it stops and commits nothing, and its supervisor starts it again.
"""


class PiepowderError(Exception):
    """Base class; the message is one sentence that tells a person what to do."""


class Transient(PiepowderError):  # noqa: N818 - a standard term
    """The same call may succeed later (a broker is down, a deadlock, a lost connection)."""


class Poison(PiepowderError):  # noqa: N818 - a standard term
    """The record can never be handled; its dead letter has the `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooNew(Poison):
    """The record's type or version is newer than this reader. A newer reader can handle it, so the later records of
    its key wait for it."""


class Fatal(PiepowderError):  # noqa: N818 - a standard term
    """The service cannot continue without breaking a guarantee: stop it, and commit nothing."""
