"""Which published frames are looked at a second time: a share per camera, within a budget for the worker.

A camera's time is cut into slots by the broker's time of its frames, and the first frame of a slot that can be decoded
by itself is taken. So a worker that begins again takes the frames again that were not acknowledged. While nothing is
found there are ``per_minute`` slots a minute; for :data:`ALERT` after a find, :data:`MORE` times as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

ALERT = timedelta(minutes=5)
"""How long after a find a camera is looked at more often."""
MORE = 10
BURST = 5.0
"""Seconds of the budget that may be saved up."""


class Sampler:
    """The slots of every camera. Not thread-safe."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def due(self, camera: str, at: datetime, per_minute: float, found: datetime | None) -> bool:
        """Whether no frame of the slot that ``at`` lies in was taken; ``found``: time of the camera's last find."""
        return per_minute > 0 and self._taken.get(camera) != _slot(at, per_minute, found)

    def take(self, camera: str, at: datetime, per_minute: float, found: datetime | None) -> None:
        self._taken[camera] = _slot(at, per_minute, found)


def _slot(at: datetime, per_minute: float, found: datetime | None) -> int:
    alert = found is not None and abs(at - found) <= ALERT
    return int(at.timestamp() * per_minute * (MORE if alert else 1) / 60)


class Budget:
    """Inferences per second that a worker may spend, saved up for :data:`BURST` seconds (a token bucket)."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._most = max(1.0, per_second * BURST)
        self._saved, self._at = self._most, clock()

    def spend(self, inferences: int) -> bool:
        """Whether there are so many; if so they are spent. What is more than can ever be saved waits for that."""
        now = self._clock()
        self._saved = min(self._most, self._saved + (now - self._at) * self._per_second)
        self._at = now
        if self._saved < min(inferences, self._most):
            return False
        self._saved -= inferences
        return True
