"""Whether the broker is in reach: while it is not, nobody knows which cameras are silent."""

from __future__ import annotations

import time
from collections.abc import Callable


class Reach:
    """``polled`` gives another value once the broker has answered a fetch, with records or without; out of reach is a
    broker of which nothing was heard for ``longest`` seconds. ``since``: when it came into reach (monotonic, seconds).
    """

    def __init__(self, polled: Callable[[], float | None], longest: float) -> None:
        self._polled = polled
        self._longest = longest
        self._answer: float | None = None
        self.since = self._heard = time.monotonic()

    def hear(self) -> None:
        """Records came, perhaps from a buffer: one that is full is why nothing is fetched."""
        now = time.monotonic()
        if now - self._heard > self._longest:
            self.since = now
        self._heard = now

    def lasts(self) -> float:
        """For how long it has been in reach, in seconds; 0 where it is not. To be asked often."""
        answer = self._polled()
        if answer != self._answer:
            self._answer = answer
            self.hear()
        now = time.monotonic()
        return now - self.since if now - self._heard <= self._longest else 0.0
