"""Masked pictures that wait to be fetched: in memory, for a short time, each for the caller who sent it."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class Kept:
    """``until``: monotonic, in seconds."""

    owner: str
    payload: bytes
    content_type: str
    until: float


class Shelf:
    """Thread-safe. Beyond ``most_bytes`` the oldest go."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0

    def put(self, owner: str, payload: bytes, content_type: str) -> str:
        """Keep a masked picture; returns the id under which its owner finds it."""
        id = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[id] = Kept(owner, payload, content_type, time.monotonic() + self._seconds)
            self._bytes += len(payload)
            self._tidy()
        return id

    def get(self, owner: str, id: str) -> Kept | None:
        """None where it is not, or no longer, there, or somebody else's."""
        with self._lock:
            self._tidy()
            kept = self._kept.get(id)
        return kept if kept is not None and kept.owner == owner else None

    def _tidy(self) -> None:
        now = time.monotonic()
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if oldest.until > now and self._bytes <= self._most_bytes:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest.payload)
