"""Count every frame from the camera to its outcome, from the topics alone.

``frames_in = masked + fully_masked + dropped + unaccounted``. Reads ``epochs`` (what the ingestors say they
sent and dropped), ``audit`` (what became of each frame) and the headers of ``frames.anonymized`` (what was
published), drops duplicates by (camera, epoch, sequence) and compares the three.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents import messages
from sfumato.agents.connection import consumer_config
from sfumato.agents.sequences import Sequences
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_ANONYMIZED


@dataclass(slots=True)
class Epoch:
    """One camera's epoch: what the ingestor said, what was audited, what was published."""

    last_sent: int = -1
    ended: bool = False
    dropped: dict[str, int] = field(default_factory=dict)
    audited: Sequences = field(default_factory=Sequences)
    to_publish: Sequences = field(default_factory=Sequences)
    published: Sequences = field(default_factory=Sequences)

    def unaccounted(self) -> int:
        return self.audited.missing(max(self.last_sent, self.audited.last, self.published.last))


class Account:
    """The counts so far. Feed it the three topics in any order; duplicates are recognised."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], Epoch] = {}
        self.outcomes: Counter[Outcome] = Counter()
        self.dropped: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.fully_masked: Counter[str] = Counter()
        self.duplicates = 0
        self.unreadable = 0
        """Messages of these topics that break their contract."""
        self._unframed: set[str] = set()
        self._delays_ms: Counter[int] = Counter()
        self._published_from: datetime | None = None
        self._published_to: datetime | None = None

    def add_epoch(self, record: EpochRecord) -> None:
        epoch = self._epoch(record.camera, record.epoch)
        epoch.last_sent = max(epoch.last_sent, -1 if record.last_sequence is None else record.last_sequence)
        epoch.dropped = {reason: max(n, epoch.dropped.get(reason, 0)) for reason, n in record.dropped.items()}
        epoch.ended |= record.state is EpochState.ENDED

    def add_audit(self, event: AuditEvent) -> None:
        frame = event.frame
        if frame is None:
            new = event.id not in self._unframed
            self._unframed.add(event.id)
        else:
            epoch = self._epoch(frame.camera, frame.epoch)
            new = epoch.audited.add(frame.sequence)
        if not new:
            self.duplicates += 1
            return
        self.outcomes[event.outcome] += 1
        if event.outcome is Outcome.DROPPED:
            self.dropped[str(event.reason)] += 1
        elif frame is not None:
            epoch.to_publish.add(frame.sequence)
        if event.outcome is Outcome.FULLY_MASKED:
            self.fully_masked[str(event.reason)] += 1
        self.objects.update(detection.target.value for detection in event.detections)

    def add_published(self, frame: FrameId, captured_at: datetime, published_at: datetime) -> None:
        if self._epoch(frame.camera, frame.epoch).published.add(frame.sequence):
            self._delays_ms[round((published_at - captured_at).total_seconds() * 1000)] += 1
            self._published_from = min(self._published_from or published_at, published_at)
            self._published_to = max(self._published_to or published_at, published_at)

    def report(self) -> dict[str, Any]:
        """The counts as a JSON object; ``unpublished``: audited as masked but not on ``frames.anonymized``."""
        dropped = Counter(self.dropped)
        for epoch in self.epochs.values():
            dropped.update(epoch.dropped)
        return {
            "frames_in": self.outcomes.total() + self._dropped_by_ingest + self.unaccounted,
            "masked": self.outcomes[Outcome.MASKED],
            "fully_masked": self.outcomes[Outcome.FULLY_MASKED],
            "dropped": dict(sorted(dropped.items())),
            "unaccounted": self.unaccounted,
            "duplicates": self.duplicates,
            "unpublished": self.unpublished,
            "unreadable": self.unreadable,
            "open_epochs": sum(1 for epoch in self.epochs.values() if not epoch.ended),
            "fully_masked_reasons": dict(sorted(self.fully_masked.items())),
            "objects": dict(sorted(self.objects.items())),
        }

    def delay_ms(self, quantile: float) -> int | None:
        """Capture to publication in milliseconds, at the quantile (0 to 1); None before the first frame."""
        rank = quantile * self._delays_ms.total()
        for delay in sorted(self._delays_ms):
            rank -= self._delays_ms[delay]
            if rank <= 0:
                return delay
        return None

    @property
    def fps(self) -> float:
        """Frames published per second, between the first and the last."""
        if self._published_from is None or self._published_to is None:
            return 0.0
        seconds = (self._published_to - self._published_from).total_seconds()
        return (self._delays_ms.total() - 1) / seconds if seconds else 0.0

    @property
    def unaccounted(self) -> int:
        return sum(epoch.unaccounted() for epoch in self.epochs.values())

    @property
    def unpublished(self) -> int:
        return sum(len(e.to_publish) - len(e.published) for e in self.epochs.values())

    @property
    def balanced(self) -> bool:
        """Every frame has one outcome, and exactly what is audited as published is published."""
        return self.unaccounted == 0 and self.unpublished == 0 and self.unreadable == 0

    @property
    def _dropped_by_ingest(self) -> int:
        return sum(sum(epoch.dropped.values()) for epoch in self.epochs.values())

    def _epoch(self, camera: str, epoch: int) -> Epoch:
        return self.epochs.setdefault((camera, epoch), Epoch())


class TopicReader:
    """Reads the three topics from their beginning into an account. A context manager; not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.account = Account()
        self._topics = {settings.topic(topic): topic for topic in (EPOCHS, AUDIT, FRAMES_ANONYMIZED)}
        self._consumer = Consumer(consumer_config(settings, f"{settings.group_id}-reconcile"))
        self._waiting = self._assign()

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, timeout: float) -> bool:
        """Read what is there, for at most ``timeout`` seconds; whether the end of every partition was seen."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for message in self._consumer.consume(500, timeout=0.05):
                self._take(message)
            if not self._waiting:
                return True
        return False

    def settle(self, timeout: float) -> bool:
        """Read on until every epoch has ended and the account balances; False at the timeout, in seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            at_end = self.read(0.5)
            ended = all(epoch.ended for epoch in self.account.epochs.values())
            if at_end and ended and self.account.epochs and self.account.balanced:
                return True
        return False

    def on_audit(self, event: AuditEvent) -> None:
        """For subclasses that want more than the counts."""

    def _assign(self) -> set[tuple[str, int]]:
        existing = self._consumer.list_topics(timeout=15).topics
        for name in self._topics:
            if name not in existing:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"{name}: run `sfumato topics`"))
        partitions = [(name, number) for name in self._topics for number in existing[name].partitions]
        self._consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for name, number in partitions])
        return set(partitions)

    def _take(self, message: Message) -> None:
        place = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._waiting.discard(place)
                return
            raise KafkaException(error)
        try:
            self._add(place[0], message)
        except EnvelopeError:
            self.account.unreadable += 1

    def _add(self, name: str, message: Message) -> None:
        topic = self._topics[name]
        if topic is EPOCHS:
            self.account.add_epoch(EpochRecord.from_message(message.value()))
        elif topic is AUDIT:
            event = AuditEvent.from_message(message.value())
            self.account.add_audit(event)
            self.on_audit(event)
        else:
            envelope = CloudEvent.from_headers(messages.headers(message))
            published_at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
            self.account.add_published(envelope.frame_id(message.key()), envelope.time, published_at)


def reconcile(settings: Settings, follow: float) -> Account:
    """Read the topics to their end, and for ``follow`` more seconds at most until the account balances."""
    with TopicReader(settings) as reader:
        reader.read(timeout=max(60.0, follow))
        if follow:
            reader.settle(follow)
        return reader.account
