"""What was found a moment ago, so that it is not looked up for each request."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

Name = TypeVar("Name")
Thing = TypeVar("Thing")
MOST = 10_000


class Recent(Generic[Name, Thing]):
    """Things by name, each for so many seconds, 10,000 at most. Thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: dict[Name, tuple[float, Thing]] = {}
        self._lock = threading.Lock()

    def get(self, name: Name) -> Thing | None:
        with self._lock:
            until, thing = self._held.get(name, (0.0, None))
            if thing is not None and until <= time.monotonic():
                del self._held[name]
                return None
            return thing

    def put(self, name: Name, thing: Thing) -> None:
        with self._lock:
            if len(self._held) >= MOST:
                self._held.clear()
            self._held[name] = (time.monotonic() + self._seconds, thing)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
