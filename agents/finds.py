"""The finds of the past hour, by camera: what of the leak budget is spent. Rebuilt from the topic at start."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

from sfumato.agents.follow import Follower
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.find import Find
from sfumato.schemas.topics import FINDS

log = logging.getLogger(__name__)

WINDOW = timedelta(hours=1)
"""The time over which a leak budget counts."""


class Ledger:
    """Each find once, by identity. Thread-safe; holds an hour of finds."""

    def __init__(self) -> None:
        self._finds: dict[str, dict[str, datetime]] = {}
        self._lock = threading.Lock()

    def add(self, find: Find) -> bool:
        """Whether it is new; one older than the window is not."""
        oldest = datetime.now(UTC) - WINDOW
        with self._lock:
            finds = self._finds.setdefault(find.camera, {})
            for id in [id for id, at in finds.items() if at <= oldest]:
                del finds[id]
            if find.published_at <= oldest or find.id in finds:
                return False
            finds[find.id] = find.published_at
            return True

    def count(self, camera: str, since: datetime | None = None) -> int:
        """The camera's finds on frames published within the past hour, and after ``since``."""
        oldest = datetime.now(UTC) - WINDOW
        oldest = oldest if since is None else max(oldest, since)
        with self._lock:
            return sum(at > oldest for at in self._finds.get(camera, {}).values())

    def newest(self, camera: str) -> datetime | None:
        """When the last frame with a find was published."""
        with self._lock:
            return max(self._finds.get(camera, {}).values(), default=None)

    def cameras(self) -> list[str]:
        with self._lock:
            return list(self._finds)


class FindStore(Ledger):
    """The ledger that follows ``finds``: what every inspector found. :meth:`start` returns once the past hour's
    finds have been read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        since = datetime.now(UTC) - WINDOW
        self._follower = Follower(settings, FINDS, lambda key, value, _: self.take(key, value), since=since)

    def start(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._follower.load(timeout)

    def close(self) -> None:
        self._follower.close()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """One message of ``finds``."""
        try:
            self.add(Find.from_message(key, value))
        except EnvelopeError as error:
            log.error("a message of finds breaks its contract: %s", error)
