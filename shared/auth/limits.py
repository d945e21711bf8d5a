"""Rate limits of a client: a token bucket for calls, and a second one for items if the client has an item limit.

Each process has its own buckets, so no call waits for another process, and a service with three replicas accepts up to
three times the rate. A call with items is accepted if one item token is available, and pays for its items afterwards,
so that a large batch is not interrupted; its debt delays the next call.
Source: draft-ietf-httpapi-ratelimit-headers-10 (fields); RFC 9110, section 10.2.3 (Retry-After).
"""

import math

from shared.contracts.events import RateLimit
from shared.runtime.clock import Clock

Fields = list[tuple[bytes, bytes]]


class Bucket:
    """Token bucket: `rate` tokens a second, at most `burst`. Times are monotonic, in seconds."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def left(self, now: float) -> float:
        """The available tokens; negative for a debt."""
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        return self._tokens

    def wait(self, now: float) -> float:
        """Seconds until one token is available."""
        return max(0.0, (1.0 - self.left(now)) / self.rate)

    def pay(self, tokens: float) -> None:
        """Take tokens; more than are available become a debt."""
        self._tokens -= tokens

    def policy(self, name: str) -> str:
        """The bucket in `RateLimit-Policy`: its quota, and the seconds in which it fills."""
        return f'"{name}";q={math.floor(self.burst)};w={math.ceil(self.burst / self.rate)}'

    def state(self, name: str, now: float) -> str:
        """The bucket in `RateLimit`: the remaining quota, and the seconds until it is full."""
        left = self.left(now)
        return f'"{name}";r={max(0, math.floor(left))};t={math.ceil((self.burst - left) / self.rate)}'


class Meter:
    """The buckets of one client in this process."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        now = clock.monotonic()
        self.limit = limit
        self._clock = clock
        self._calls = Bucket(limit.requests_per_second, limit.burst, now)
        rate = limit.items_per_second
        self._items = Bucket(rate, max(1.0, rate), now) if rate else None
        self._buckets = {"requests": self._calls} | ({} if self._items is None else {"items": self._items})
        self._policy = ", ".join(bucket.policy(name) for name, bucket in self._buckets.items()).encode()

    def take(self, now: float) -> float:
        """Take the token of a call. Returns 0, or the seconds to wait if the call must be refused."""
        wait = self._calls.wait(now)
        if self._items is not None:
            wait = max(wait, self._items.wait(now))
        if not wait:
            self._calls.pay(1.0)
        return wait

    def charge(self, items: int) -> None:
        """Charge the items of an accepted call."""
        if self._items is not None:
            self._items.left(self._clock.monotonic())
            self._items.pay(items)

    def fields(self) -> Fields:
        """The headers `RateLimit-Policy` and `RateLimit`."""
        now = self._clock.monotonic()
        state = ", ".join(bucket.state(name, now) for name, bucket in self._buckets.items())
        return [(b"ratelimit-policy", self._policy), (b"ratelimit", state.encode())]
