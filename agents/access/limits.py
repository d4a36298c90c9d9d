"""Rate limits: a bucket of tokens for each caller and for each address that shows wrong keys.

The algorithm is GCRA, a token bucket that counts in fractions of a second; throttled-py's own token bucket counts in
whole ones and drops the rest, so that low rates come out lower. The buckets lie in this process, or in a Redis or
Valkey that several bridges share. While that does not answer, each process limits by itself.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from throttled.asyncio import (
    BaseStore,
    MemoryStore,
    RateLimiterType,
    RateLimitResult,
    RedisStore,
    Throttled,
    rate_limiter,
)
from throttled.exceptions import BaseThrottledError

from sfumato.agents.settings import Settings

log = logging.getLogger(__name__)

FAILURES = 60
"""Wrong keys and tokens that one address may show a minute."""
STORE_TIMEOUT = 0.25
"""Seconds that a request waits for the shared store,"""
STORE_PAUSE = 5.0
"""and for which it is not asked again after it did not answer."""
BUCKETS = 100_000
"""Buckets in memory at most; the ones used longest ago go first."""


class Underway:
    """How many requests, streams of events and WebSockets each caller has open in this process. All methods belong to
    one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, int] = {}

    def begin(self, caller: str) -> None:
        """HTTPException 429 where the caller has as many as it may."""
        if self._open.get(caller, 0) >= self._most:
            detail = f"more than {self._most} requests, streams and WebSockets are open (SFUMATO_CALLER_CONNECTIONS)"
            raise HTTPException(429, f"{detail}; close some", {"Retry-After": "5"})
        self._open[caller] = self._open.get(caller, 0) + 1

    def end(self, caller: str) -> None:
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a caller's rate: ``reset``, ``retry`` in seconds, until all is and until one is there again."""

    rate: int
    remaining: int
    reset: float
    retry: float
    limited: bool

    def headers(self) -> dict[str, str]:
        found = {
            "RateLimit-Policy": f"{self.rate};w=60",
            "RateLimit-Limit": str(self.rate),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset)),
        }
        return found | ({"Retry-After": str(max(1, math.ceil(self.retry)))} if self.limited else {})


class Limits:
    """The buckets; all methods belong to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.default = settings.rate_limit
        self._own = _Buckets(MemoryStore(options={"MAX_SIZE": BUCKETS}))
        self._shared = _Buckets(_redis(settings.rate_limit_url)) if settings.rate_limit_url else None
        self._asleep_until = 0.0

    async def take(self, caller_id: str, rate: int | None) -> Left:
        """One request of a caller, with ``rate`` requests a minute."""
        return await self._ask(f"caller:{caller_id}", rate or self.default, 1)

    async def fail(self, address: str) -> None:
        """An address has shown a wrong key or token."""
        await self._ask(f"failures:{address}", FAILURES, 1)

    async def failed_too_often(self, address: str) -> Left | None:
        left = await self._ask(f"failures:{address}", FAILURES, 0)
        return left if left.limited else None

    async def _ask(self, name: str, rate: int, cost: int) -> Left:
        if self._shared is not None and time.monotonic() >= self._asleep_until:
            try:
                return await self._shared.ask(name, rate, cost)
            except (RedisError, BaseThrottledError, OSError) as error:
                self._asleep_until = time.monotonic() + STORE_PAUSE
                why = type(error).__name__
                log.error("SFUMATO_RATE_LIMIT_URL: %s; each bridge limits by itself for %g s", why, STORE_PAUSE)
        return await self._own.ask(name, rate, cost)


class _Buckets:
    def __init__(self, store: BaseStore) -> None:
        self._store = store
        self._by_rate: dict[int, Throttled] = {}

    async def ask(self, name: str, rate: int, cost: int) -> Left:
        throttled = self._by_rate.get(rate)
        if throttled is None:
            quota = rate_limiter.per_min(rate)
            throttled = Throttled(
                using=RateLimiterType.GCRA.value, quota=quota, store=self._store, key_prefix="sfumato"
            )
            self._by_rate[rate] = throttled
        if cost:
            result: RateLimitResult = await throttled.limit(name, cost)
            state, limited = result.state, result.limited
        else:
            state = await throttled.peek(name)
            limited = state.remaining < 1
        return Left(rate, state.remaining, state.reset_after, state.retry_after, limited)


def _redis(url: str) -> RedisStore:
    waits: dict[str, Any] = {"socket_timeout": STORE_TIMEOUT, "socket_connect_timeout": STORE_TIMEOUT}
    return RedisStore(server=url, options={"CONNECTION_POOL_KWARGS": waits})
