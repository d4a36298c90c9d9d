"""What a vendor's topic holds of what it should: of the messages alone."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from confluent_kafka import Message

from sfumato.schemas.topics import FRAMES_ANONYMIZED, Topic


@dataclass
class Copies:
    """Of the ``cameras`` that a vendor gets. A message is the same one where key, value and headers are."""

    cameras: Collection[str]
    originals: defaultdict[str, dict[bytes, int]] = field(default_factory=lambda: defaultdict(dict))
    """By camera, each message of ``frames.anonymized`` and its place among them."""
    copies: defaultdict[str, Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    """By camera, what is on the vendor's topic, in the order of first appearances."""
    newest: dict[str, float] = field(default_factory=dict)
    """By camera, when the latest of its copies was written, in seconds since 1970."""

    def take(self, topic: Topic, message: Message) -> None:
        camera = (message.key() or b"").decode(errors="replace")
        printed = _fingerprint(message)
        if topic is FRAMES_ANONYMIZED:
            if camera in self.cameras:
                self.originals[camera].setdefault(printed, len(self.originals[camera]))
            return
        if not self.copies[camera][printed]:
            self.newest[camera] = max(self.newest.get(camera, 0.0), message.timestamp()[1] / 1000)
        self.copies[camera][printed] += 1

    @property
    def lost(self) -> int:
        return sum(len(found.keys() - self.copies[camera].keys()) for camera, found in self.originals.items())

    @property
    def duplicates(self) -> int:
        return sum(copies.total() - len(copies) for copies in self.copies.values())

    @property
    def foreign(self) -> int:
        """What the vendor should not have: another camera's, or a copy of nothing."""
        return sum(len(copies.keys() - self.originals[camera].keys()) for camera, copies in self.copies.items())

    @property
    def disordered(self) -> int:
        """Copies whose first appearance comes behind that of a later original of their camera."""
        places = ([self.originals[c][p] for p in found if p in self.originals[c]] for c, found in self.copies.items())
        return sum(later < earlier for found in places for earlier, later in pairwise(found))


def _fingerprint(message: Message) -> bytes:
    parts = (message.key(), message.value(), *(part for pair in message.headers() or () for part in pair))
    digest = hashlib.sha256()
    for part in parts:
        piece = part.encode() if isinstance(part, str) else part or b""
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.digest()
