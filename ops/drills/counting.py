"""Count what became of every frame: of the topics alone, and apart from the product's own count.

``lost``: on ``frames.raw``, and without an outcome, or audited as published and not on ``frames.anonymized``.
``unaccounted``: as ``sfumato reconcile`` counts it, by the sequences. ``duplicates``: an identity again. ``leaked``:
published pictures that show the marker. ``disordered``: pictures whose first appearance is behind a later one's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from drills import marker
from drills.seals import Seals
from sfumato.agents.reconcile import Account
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_ANONYMIZED, FRAMES_RAW, LEDGER, Topic

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
    searched: int = 0
    leaked: int = 0
    unsearchable: int = 0
    """Published, but no picture."""
    duplicates: int = 0
    disordered: int = 0
    conflicts: int = 0
    """Identities that were audited again with another outcome."""
    _published: set[FrameId] = field(default_factory=set)
    _newest: dict[tuple[str, int], int] = field(default_factory=dict)

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
        self._search(frame)
        self.account.add_published(frame.id, frame.captured_at, published_at)
        if frame.id in self._published:
            self.duplicates += 1
            return
        self._published.add(frame.id)
        place = (frame.id.camera, frame.id.epoch)
        self.disordered += frame.id.sequence < self._newest.get(place, -1)
        self._newest[place] = max(frame.id.sequence, self._newest.get(place, -1))
        self.arrivals.append(Arrival(frame.id, frame.captured_at, published_at, at, frame.outcome))

    def _search(self, frame: AnonymizedFrame) -> None:
        try:
            picture = images.decode(frame.payload, frame.content_type, max_pixels=10**7)
        except ImageError:
            self.unsearchable += 1
            return
        self.searched += 1
        self.leaked += marker.shows(picture)

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


class Witness(threading.Thread):
    """Reads the topics from their beginning into a tally, through whatever the broker does. ``lock`` guards it."""

    TOPICS = (FRAMES_RAW, EPOCHS, AUDIT, FRAMES_ANONYMIZED, LEDGER)

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="witness", daemon=True)
        self.tally = Tally()
        self.lock = threading.Lock()
        self.problem: BaseException | None = None
        self.heard = time.monotonic()
        """When a message was read last (monotonic, seconds)."""
        self._closing = threading.Event()
        self._topics = {settings.topic(topic): topic for topic in self.TOPICS}
        options: dict[str, str | int | bool] = {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": "drill-witness",  # required by the client; nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
            "reconnect.backoff.max.ms": 250,
            "log_level": 0,
        }
        self._consumer = Consumer(options)
        self._asking = Consumer(options)  # one client cannot be asked while another thread consumes from it
        listed = self._consumer.list_topics(timeout=15).topics
        self._places = [TopicPartition(name, number) for name in self._topics for number in listed[name].partitions]
        self._next = {(place.topic, place.partition): 0 for place in self._places}
        self._consumer.assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in self._places])

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                for message in self._consumer.consume(200, timeout=0.05):
                    self._take(message)
        except BaseException as error:  # noqa: BLE001 - a witness that fell silent must not look like a quiet system
            self.problem = error

    def caught_up(self) -> bool:
        """Whether all that is on the topics now has been read."""
        ends = [self._asking.get_watermark_offsets(place, timeout=10)[1] for place in self._places]
        return all(self._next[p.topic, p.partition] >= end for p, end in zip(self._places, ends, strict=True))

    def first(self, cameras: Iterable[str], since: float, counts: Callable[[Arrival], bool]) -> float | None:
        """When every one of the cameras had shown a picture that counts, after ``since`` (monotonic); None: not yet."""
        missing, at = set(cameras), since
        with self.lock:
            found = [arrival for arrival in self.tally.arrivals if arrival.at >= since and counts(arrival)]
        for arrival in found:
            if arrival.frame.camera in missing:
                missing.remove(arrival.frame.camera)
                at = max(at, arrival.at)
        return None if missing else at

    def close(self) -> None:
        self._closing.set()
        self.join(10)
        self._consumer.close()
        self._asking.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if not error.retriable() and error.code() not in _PASSING:
                raise KafkaException(error)
            return
        self.heard = time.monotonic()
        with self.lock:
            try:
                self._add(message)
            except EnvelopeError:
                self.tally.account.unreadable += 1
        self._next[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1

    def _add(self, message: Message) -> None:
        topic: Topic = self._topics[message.topic() or ""]
        if topic is EPOCHS:
            self.tally.add_epoch(EpochRecord.from_message(message.value()))
        elif topic is AUDIT:
            event = AuditEvent.from_message(message.value())
            self.tally.add_audit(event)
            if event.frame is not None:
                self.tally.seals.add_leaf(event.frame, message.value())
        elif topic is LEDGER:
            self.tally.seals.add_note(message.key().decode(), message.value().decode())
        elif topic is FRAMES_RAW:
            self.tally.add_raw(CloudEvent.from_headers(message.headers()).frame_id(message.key()))
        else:
            frame = AnonymizedFrame.from_message(message.key(), message.value(), message.headers())
            published_at = datetime.fromtimestamp(message.timestamp()[1] / 1000, frame.captured_at.tzinfo)
            self.tally.add_published(frame, published_at, time.monotonic())


_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._RESOLVE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
}
"""What a broker's absence looks like to a client."""
