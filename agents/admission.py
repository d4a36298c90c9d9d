"""Which frames may wait for the broker: a bound on the bytes in flight, shared fairly by the cameras."""

from __future__ import annotations

import threading
from collections import Counter


class Admission:
    """Thread-safe. At most twice ``limit`` bytes are ever outstanding.

    While there is room everyone is let in. Once ``limit`` is used up, a camera is let in only within its fair
    share (limit / cameras), or for one frame if it has nothing outstanding: so the newest frames of the noisiest
    cameras are refused, and a quiet camera is not starved by them.
    """

    def __init__(self, limit: int, cameras: int) -> None:
        self._limit = limit
        self._share = limit // max(1, cameras)
        self._outstanding: Counter[str] = Counter()
        self._total = 0
        self._changed = threading.Condition()

    def admit(self, camera: str, size: int) -> bool:
        """Whether a frame of ``size`` bytes may be sent; if so it is outstanding until released."""
        with self._changed:
            held, total = self._outstanding[camera], self._total + size
            crowded = total > self._limit
            within_share = held == 0 or held + size <= self._share
            if total > 2 * self._limit or (crowded and not within_share):
                return False
            self._outstanding[camera] += size
            self._total = total
            return True

    def release(self, camera: str, size: int) -> None:
        """The broker has acknowledged, or will never get, ``size`` bytes."""
        with self._changed:
            self._outstanding[camera] -= size
            self._total -= size
            self._changed.notify_all()

    def ever(self, size: int) -> bool:
        """Whether a frame of ``size`` bytes can be let in at all."""
        return size <= 2 * self._limit

    def wait_for_room(self, timeout: float) -> None:
        """Wait until something was released, or for ``timeout`` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    def drained(self, camera: str, timeout: float) -> bool:
        """Wait until nothing of the camera is outstanding; False at the timeout, in seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._outstanding[camera] == 0, timeout)

    @property
    def total(self) -> int:
        """Bytes outstanding, of all cameras."""
        return self._total
