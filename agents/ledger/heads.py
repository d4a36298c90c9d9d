"""The newest head of every log: the compacted topic read whole at start, then followed.

A head or a cover that nobody of ours signed, or that contradicts itself, is none. Where there is no other, nothing can
go on.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from queue import SimpleQueue

from sfumato.agents import metrics
from sfumato.agents.follow import Follower, drain
from sfumato.agents.ledger.checkpoints import newest_segments
from sfumato.agents.ledger.keys import Keys
from sfumato.agents.ledger.note import Checkpoint, NoteError
from sfumato.agents.ledger.stamp import unstamp
from sfumato.agents.ledger.tree import Range
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.head import Cover, Head, HeadError
from sfumato.schemas.segment import Segment
from sfumato.schemas.topics import LEDGER_HEADS

log = logging.getLogger(__name__)


class HeadStore:
    """Thread-safe. :meth:`start` returns once every head published before it has been read."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._origin = settings.ledger_origin
        self._segments: list[Segment] = []
        self._keys = keys
        self._newest: dict[str, Head] = {}
        self._covers: dict[tuple[str, int], Cover] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()
        self._came: SimpleQueue[Head] = SimpleQueue()
        self._follower = Follower(settings, LEDGER_HEADS, self.take)

    def start(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds, :class:`HeadError` where
        a log has no head, or a partition no cover, that can be believed."""
        # Before the heads: whatever has a checkpoint by now has a head by then.
        self._segments = newest_segments(self._settings, self._keys)
        self._follower.load(timeout)
        with self._lock:
            believed = self._newest.keys() | {cover.key.decode() for cover in self._covers.values()}
            lost = {name: why for name, why in self._refused.items() if name not in believed}
        if lost:
            name, why = sorted(lost.items())[0]
            raise HeadError(name, why)

    def close(self) -> None:
        self._follower.close()

    def newest(self) -> list[Head]:
        with self._lock:
            return list(self._newest.values())

    def covers(self) -> list[Cover]:
        """The one that reaches farthest, of each partition."""
        with self._lock:
            return list(self._covers.values())

    def segments(self) -> list[Segment]:
        """The newest that is published of each log of those lately active."""
        return self._segments

    def came(self) -> list[Head]:
        """Heads that came since this was asked last, whoever wrote them."""
        return drain(self._came)

    def take(self, key: bytes | None, value: bytes | None, _: datetime) -> None:
        """One message of ``ledger.heads``. Never raises."""
        name = (key or b"").decode(errors="replace")[:64]
        try:
            if name.startswith("@"):
                self._take_cover(key, value)
                return
            head = self._read_head(key, value)
        except (EnvelopeError, NoteError, ValueError) as error:
            log.critical("log %s: a head on the topic is not believed: %s", name, error)
            metrics.LEDGER_REFUSED_HEADS.inc()
            with self._lock:
                self._refused[name] = str(error)
            return
        if head is None:
            return
        with self._lock:
            known = self._newest.get(head.log)
            # A ledger that was held up may write an older head after a newer one; what is stopped stays so.
            if known is None or _rank(known) <= _rank(head):
                self._newest[head.log] = head
        self._came.put(head)

    def _take_cover(self, key: bytes | None, value: bytes | None) -> None:
        cover = Cover.from_message(_json(value))
        if cover.origin != self._origin:
            return
        unstamp(key, value, self._keys.verifiers)
        if key != cover.key:
            raise ValueError("its key is not its partition")
        with self._lock:
            known = self._covers.get((cover.topic, cover.partition))
            if known is None or known.offset <= cover.offset:
                self._covers[cover.topic, cover.partition] = cover

    def _read_head(self, key: bytes | None, value: bytes | None) -> Head | None:
        head = Head.from_message(_json(value))
        if head.origin != self._origin:
            return None  # other logs: the origin was changed
        unstamp(key, value, self._keys.verifiers)
        if key != head.log.encode():
            raise ValueError("its key is not its log")
        root = Range(0, head.size, map(bytes.fromhex, head.frontier)).root()
        if head.note or head.size:
            signed = Checkpoint.parse(self._keys.open(head.note))
            if (signed.origin, signed.size, signed.root) != (f"{head.origin}/{head.log}", head.size, root):
                raise ValueError("its note is of another checkpoint")
        return head


def _json(value: bytes | None) -> bytes:
    """What lies behind the signature."""
    return (value or b"").partition(b"\n")[2]


def _rank(head: Head) -> tuple[bool, int, int]:
    return bool(head.stopped), head.size, head.next_offset
