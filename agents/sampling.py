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
BURST = 10.0
"""Seconds for which the budget may be saved up."""


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
    """The share of its time that a worker may spend looking, saved up for :data:`BURST` seconds (a token bucket)."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._saved, self._at = share * BURST, clock()

    @property
    def left(self) -> bool:
        """Whether another look may begin."""
        now = self._clock()
        self._saved = min(self._share * BURST, self._saved + (now - self._at) * self._share)
        self._at = now
        return self._saved > 0

    def charge(self, seconds: float) -> None:
        """A look took so long; one that took longer than was saved is paid off before the next."""
        self._saved -= seconds
