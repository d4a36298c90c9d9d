"""Count what became of every frame: of the topics alone, and apart from the product's own count.

``lost``: on ``frames.raw``, and without an outcome, or audited as published and not on ``frames.anonymized``.
``unaccounted``: as ``sfumato reconcile`` counts it, by the sequences. ``duplicates``: an identity again. ``leaked``:
published pictures that show the marker (:mod:`drills.searching`). ``disordered``: pictures whose first appearance is
behind a later one's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from confluent_kafka import Message

from drills.seals import Seals
from drills.searching import Search
from sfumato.agents.reconcile import Account
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_ANONYMIZED, FRAMES_RAW, LEDGER, Topic

TOPICS = (FRAMES_RAW, EPOCHS, AUDIT, FRAMES_ANONYMIZED, LEDGER)
BATCH = 8
"""The default of ``SFUMATO_BATCH_SIZE``."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A picture of a new identity, as it came from the broker. ``at`` is monotonic, in seconds."""

    frame: FrameId
    captured_at: datetime
    published_at: datetime
    at: float
    outcome: Outcome

    @property
    def age(self) -> float:
        """Seconds from capture to publication."""
        return (self.published_at - self.captured_at).total_seconds()


@dataclass
class Tally:
    """The counts so far; feed it messages of the topics in any order."""

    account: Account = field(default_factory=Account)
    seals: Seals = field(default_factory=Seals)
    raw: set[FrameId] = field(default_factory=set)
    outcomes: dict[FrameId, Outcome] = field(default_factory=dict)
    """The first of each identity, which is the one that counts."""
    reasons: Counter[str] = field(default_factory=Counter)
    took: dict[FrameId, float] = field(default_factory=dict)
    """Seconds that a frame waited for others and that a full batch of such frames took."""
    arrivals: list[Arrival] = field(default_factory=list)
    search: Search = field(default_factory=Search)
    planted: frozenset[str] = frozenset()
    """Cameras whose published pictures are the drill's own: none of the product's outputs."""
    duplicates: int = 0
    disordered: int = 0
    conflicts: int = 0
    """Identities that were audited again with another outcome."""
    _published: set[FrameId] = field(default_factory=set)
    _newest: dict[tuple[str, int], int] = field(default_factory=dict)

    def take(self, topic: Topic, message: Message) -> None:
        """A message of one of :data:`TOPICS`; one that breaks its contract is counted as unaccounted for."""
        try:
            self._take(topic, message)
        except EnvelopeError:
            self.account.unreadable += 1

    def _take(self, topic: Topic, message: Message) -> None:
        if topic is EPOCHS:
            self.add_epoch(EpochRecord.from_message(message.value()))
        elif topic is AUDIT:
            event = AuditEvent.from_message(message.value())
            self.add_audit(event)
            if event.frame is not None:
                self.seals.add_leaf(event.frame, message.value())
        elif topic is LEDGER:
            self.seals.add_note(message.key().decode(), message.value().decode())
        elif topic is FRAMES_RAW:
            self.add_raw(CloudEvent.from_headers(message.headers()).frame_id(message.key()))
        else:
            frame = AnonymizedFrame.from_message(message.key(), message.value(), message.headers())
            published_at = datetime.fromtimestamp(message.timestamp()[1] / 1000, frame.captured_at.tzinfo)
            self.add_published(frame, published_at, time.monotonic())

    def add_raw(self, frame: FrameId) -> None:
        self.raw.add(frame)

    def add_epoch(self, record: EpochRecord) -> None:
        self.account.add_epoch(record)

    def add_audit(self, event: AuditEvent) -> None:
        self.account.add_audit(event)
        if event.frame is None:
            return
        spent = event.timings_ms
        batch = BATCH * (spent.decode + spent.detect + spent.mask + spent.encode)
        self.took.setdefault(event.frame, (spent.wait + batch) / 1000)
        if self.outcomes.setdefault(event.frame, event.outcome) is not event.outcome:
            self.conflicts += 1
        self.reasons[str(event.reason or event.outcome)] += 1

    def add_published(self, frame: AnonymizedFrame, published_at: datetime, at: float) -> None:
        if frame.id.camera in self.planted:
            return
        self.search.look(frame)
        self.account.add_published(frame.id, frame.captured_at, published_at)
        if frame.id in self._published:
            self.duplicates += 1
            return
        self._published.add(frame.id)
        place = (frame.id.camera, frame.id.epoch)
        self.disordered += frame.id.sequence < self._newest.get(place, -1)
        self._newest[place] = max(frame.id.sequence, self._newest.get(place, -1))
        self.arrivals.append(Arrival(frame.id, frame.captured_at, published_at, at, frame.outcome))

    def first(self, cameras: Iterable[str], since: float, counts: Callable[[Arrival], bool]) -> float | None:
        """When every one of the cameras had shown a picture that counts, after ``since`` (monotonic); None: not yet."""
        missing, at = set(cameras), since
        for arrival in self.arrivals:
            if arrival.frame.camera in missing and arrival.at >= since and counts(arrival):
                missing.remove(arrival.frame.camera)
                at = max(at, arrival.at)
        return None if missing else at

    @property
    def lost(self) -> int:
        without_outcome = len(self.raw - self.outcomes.keys())
        unpublished = sum(
            outcome is not Outcome.DROPPED and frame not in self._published for frame, outcome in self.outcomes.items()
        )
        return without_outcome + unpublished

    @property
    def unaccounted(self) -> int:
        return self.account.unaccounted + self.account.unreadable

    @property
    def balanced(self) -> bool:
        return self.lost == 0 and self.unaccounted == 0
