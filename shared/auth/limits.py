"""How often a client may call: a token bucket of calls, and one of items where they have a limit of their own.

A limit holds for each process, which keeps its own bucket: no call waits for another process, and a service of three
replicas takes up to three times the rate. A call that brings items is let in while any are left and pays afterwards, so
a large batch is not cut off in its middle; the debt is worked off before the next call.
Source: draft-ietf-httpapi-ratelimit-headers-10 (fields); RFC 9110, section 10.2.3 (Retry-After).
"""

import math

from shared.contracts.events import RateLimit
from shared.runtime.clock import Clock

Fields = list[tuple[bytes, bytes]]


class Bucket:
    """`rate` tokens come in a second, up to `burst`. Times are a monotonic clock's, in seconds."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def left(self, now: float) -> float:
        """The tokens that are there; negative is debt."""
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        return self._tokens

    def wait(self, now: float) -> float:
        """Seconds until there is a whole token; 0 when there is one."""
        return max(0.0, (1.0 - self.left(now)) / self.rate)

    def pay(self, tokens: float) -> None:
        """Take tokens, whether they are there or not."""
        self._tokens -= tokens

    def policy(self, name: str) -> str:
        """The bucket in `RateLimit-Policy`: its whole quota, and the seconds in which it fills."""
        return f'"{name}";q={math.floor(self.burst)};w={math.ceil(self.burst / self.rate)}'

    def state(self, name: str, now: float) -> str:
        """The bucket in `RateLimit`: what remains, and the seconds until it is full."""
        left = self.left(now)
        return f'"{name}";r={max(0, math.floor(left))};t={math.ceil((self.burst - left) / self.rate)}'


class Meter:
    """What a client may still do in this process."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        now = clock.monotonic()
        self.limit = limit
        self._clock = clock
        self._calls = Bucket(limit.requests_per_second, limit.burst, now)
        rate = limit.items_per_second
        self._items = Bucket(rate, max(1.0, rate), now) if rate else None
        named = {"requests": self._calls} | ({} if self._items is None else {"items": self._items})
        self._buckets = named
        self._policy = ", ".join(bucket.policy(name) for name, bucket in named.items()).encode()

    def take(self, now: float) -> float:
        """Let a call in; the seconds to wait when it is not, 0 when it is."""
        wait = self._calls.wait(now)
        if self._items is not None:
            wait = max(wait, self._items.wait(now))
        if not wait:
            self._calls.pay(1.0)
        return wait

    def charge(self, items: int) -> None:
        """Count the items that a call brought."""
        if self._items is not None:
            self._items.left(self._clock.monotonic())
            self._items.pay(items)

    def fields(self) -> Fields:
        """`RateLimit-Policy` and `RateLimit`, as they are now."""
        now = self._clock.monotonic()
        state = ", ".join(bucket.state(name, now) for name, bucket in self._buckets.items())
        return [(b"ratelimit-policy", self._policy), (b"ratelimit", state.encode())]
