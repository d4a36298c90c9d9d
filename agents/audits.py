"""Search the topic ``audit`` itself: there is no second copy. Pages go on at the offsets where the last one stopped.

Every partition is read, since which one holds a camera changes when partitions are added. Events come in the order of
their messages' timestamps, merged over the partitions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from pydantic import Field

from sfumato.agents.connection import client_config
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.part import Part
from sfumato.schemas.topics import AUDIT

SCANNED = 20_000
"""Messages that one page looks at, at most."""
WAITING = 1_000
"""Messages of one partition from which on it is not read further while others are behind."""
TIMEOUT = 20.0
"""Seconds that one page may take."""
WITHIN = 60_000
"""Milliseconds by which a message may be younger than its event."""


class AuditError(RuntimeError):
    """The topic cannot be read; says why."""


class Positions(Part):
    """Where a search goes on: by partition, the next offset."""

    offsets: dict[int, Annotated[int, Field(ge=OFFSET_BEGINNING, lt=2**63)]]


@dataclass(frozen=True, slots=True)
class Query:
    """``since`` (inclusive) and ``until`` (exclusive) by ``audited_at``. ``sees``: whether the caller may see events of
    a camera, None: of no camera."""

    sees: Callable[[str | None], bool]
    camera: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None

    def matches(self, event: AuditEvent) -> bool:
        return (
            self.sees(event.camera)
            and self.camera in (None, event.camera)
            and self.outcome in (None, event.outcome)
            and self.reason in (None, event.reason)
            and (self.since is None or event.audited_at >= self.since)
            and (self.until is None or event.audited_at < self.until)
        )


@dataclass(slots=True)
class _Part:
    """One partition: what was read of it and not given yet, as (timestamp, next offset, event or None)."""

    offset: int
    ended: bool = False
    paused: bool = False
    waiting: deque[tuple[int, int, AuditEvent | None]] = field(default_factory=deque)


class Search:
    """A search, from its beginning or from where a page stopped. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, query: Query, positions: Positions | None = None) -> None:
        """Raises :class:`AuditError`."""
        self._query = query
        self._topic = settings.topic(AUDIT)
        self._consumer = Consumer(
            {
                **client_config(settings),
                "group.id": f"{settings.group_id}-audits",  # required by the client; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            self._parts = self._begin(positions)
        except KafkaException as error:
            self._consumer.close()
            raise AuditError(error.args[0].str()) from None

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    @property
    def positions(self) -> Positions | None:
        """Where the next page begins; None: nothing is left."""
        if all(part.ended and not part.waiting for part in self._parts.values()):
            return None
        return Positions(offsets={number: part.offset for number, part in self._parts.items()})

    def page(self, limit: int) -> list[AuditEvent]:
        """The next events, at most ``limit``; fewer, or none, where much was looked at that does not match."""
        found: list[AuditEvent] = []
        deadline = time.monotonic() + TIMEOUT
        for _ in range(SCANNED):
            part = self._next(deadline)
            if part is None or len(found) == limit:
                break
            _, part.offset, event = part.waiting.popleft()
            if event is not None:
                found.append(event)
        return found

    def pages(self, limit: int) -> Iterator[list[AuditEvent]]:
        """Every page up to the end."""
        while True:
            yield self.page(limit)
            if self.positions is None:
                return

    def _begin(self, positions: Positions | None) -> dict[int, _Part]:
        topic = self._consumer.list_topics(self._topic, timeout=TIMEOUT).topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        known = positions.offsets if positions is not None else {}
        fresh = sorted(topic.partitions.keys() - known.keys())
        offsets = {**{n: offset for n, offset in known.items() if n in topic.partitions}, **self._seek(fresh)}
        parts = {number: _Part(offset, ended=offset == OFFSET_END) for number, offset in offsets.items()}
        starts = {number: self._start(number, part.offset) for number, part in parts.items() if not part.ended}
        self._consumer.assign([TopicPartition(self._topic, number, offset) for number, offset in starts.items()])
        return parts

    def _start(self, number: int, offset: int) -> int:
        """Where to read from. Not beyond the end, from where a broker starts anew (Kafka) or says nothing (embedded):
        what is then read below the offset is passed over."""
        if offset < 0:
            return offset
        partition = TopicPartition(self._topic, number)
        low, high = self._consumer.get_watermark_offsets(partition, timeout=TIMEOUT)
        return int(max(low, min(offset, high - 1)))  # the embedded broker's end is where its last batch begins, and 1

    def _seek(self, partitions: list[int]) -> dict[int, int]:
        if self._query.since is None or not partitions:
            return dict.fromkeys(partitions, OFFSET_BEGINNING)
        moment = max(0, int(self._query.since.timestamp() * 1000))
        wanted = [TopicPartition(self._topic, number, moment) for number in partitions]
        return {found.partition: found.offset for found in self._consumer.offsets_for_times(wanted, timeout=TIMEOUT)}

    def _next(self, deadline: float) -> _Part | None:
        """The partition whose next message is the oldest; None where nothing is left."""
        while any(not part.ended and not part.waiting for part in self._parts.values()):
            if time.monotonic() > deadline:
                raise AuditError(f"not read within {TIMEOUT:.0f} s")
            self._pause()
            try:
                for message in self._consumer.consume(500, timeout=0.05):
                    self._take(message)
            except KafkaException as error:
                raise AuditError(error.args[0].str()) from None
        waiting = [part for part in self._parts.values() if part.waiting]
        return min(waiting, key=lambda part: part.waiting[0][0], default=None)

    def _pause(self) -> None:
        """Read on only where little is waiting: one partition may be far ahead of the others."""
        for number, part in self._parts.items():
            if part.ended or part.paused == (len(part.waiting) >= WAITING):
                continue
            part.paused = not part.paused
            change = self._consumer.pause if part.paused else self._consumer.resume
            change([TopicPartition(self._topic, number)])

    def _take(self, message: Message) -> None:
        part = self._parts[message.partition() or 0]
        error = message.error()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            part.ended = True
            return
        if (message.offset() or 0) < part.offset:
            return
        at = message.timestamp()[1]
        if part.ended or (self._query.until is not None and at > self._query.until.timestamp() * 1000 + WITHIN):
            part.ended = True
            return
        part.waiting.append((at, (message.offset() or 0) + 1, self._event(message)))

    def _event(self, message: Message) -> AuditEvent | None:
        key = message.key()
        if self._query.camera is not None and key != self._query.camera.encode():
            return None
        value = message.value()
        try:
            event = AuditEvent.from_message(value.encode() if isinstance(value, str) else value)
        except EnvelopeError:
            return None
        return event if self._query.matches(event) else None
