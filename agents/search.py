"""Search a topic itself: there is no second copy. Pages go on at the offsets where the last one stopped.

Every partition is read, since which one holds a key changes when partitions are added. Records come in the order of
their messages' timestamps, merged over the partitions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Generic, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from pydantic import Field

from sfumato.agents import messages
from sfumato.agents.connection import consumer_config
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.part import Part
from sfumato.schemas.topics import Topic

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SCANNED = 20_000
"""Messages that one page looks at, at most."""
WAITING = 1_000
"""Messages of one partition from which on it is not read further while others are behind."""
TIMEOUT = 20.0
"""Seconds that one page may take."""
WITHIN = 60_000
"""Milliseconds by which a message may be younger than its record."""


class SearchError(Fault, RuntimeError):
    """The topic cannot be read; says which, and why."""


class Positions(Part):
    """Where a search goes on: by partition, the next offset."""

    offsets: dict[int, Annotated[int, Field(ge=OFFSET_BEGINNING, lt=2**63)]]


class Query(Protocol[R_co]):
    """What is searched for. ``since`` (inclusive) and ``until`` (exclusive) by the record's own time."""

    @property
    def topic(self) -> Topic: ...

    @property
    def since(self) -> datetime | None: ...

    @property
    def until(self) -> datetime | None: ...

    def read(self, key: bytes | None, value: bytes | None) -> R_co | None:
        """The record of a message; None where it is not searched for. Raises :class:`EnvelopeError` where it breaks
        its contract: it is passed over."""
        ...


@dataclass(slots=True)
class _Partition(Generic[R]):
    """One partition: what was read of it and not given yet, as (timestamp, next offset, record or None)."""

    offset: int
    ended: bool = False
    paused: bool = False
    waiting: deque[tuple[int, int, R | None]] = field(default_factory=deque)


class Search(Generic[R]):
    """A search, from its beginning or from where a page stopped. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, query: Query[R], positions: Positions | None = None) -> None:
        """Raises :class:`SearchError`."""
        self._query = query
        self._topic = settings.topic(query.topic)
        self._consumer = Consumer(consumer_config(settings, f"{settings.group_id}-search"))
        try:
            self._parts = self._begin(positions)
        except KafkaException as error:
            self._consumer.close()
            raise SearchError(f"{self._topic}: {error.args[0].str()}") from None

    def __enter__(self) -> Search[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    @property
    def positions(self) -> Positions | None:
        """Where the next page begins; None: nothing is left."""
        if all(part.ended and not part.waiting for part in self._parts.values()):
            return None
        return Positions(offsets={number: part.offset for number, part in self._parts.items()})

    def page(self, limit: int) -> list[R]:
        """The next records, at most ``limit``; fewer, or none, where much was looked at that does not match."""
        found: list[R] = []
        deadline = time.monotonic() + TIMEOUT
        for _ in range(SCANNED):
            part = self._next(deadline)
            if part is None or len(found) == limit:
                break
            _, part.offset, record = part.waiting.popleft()
            if record is not None:
                found.append(record)
        return found

    def pages(self, limit: int) -> Iterator[list[R]]:
        """Every page up to the end."""
        while True:
            yield self.page(limit)
            if self.positions is None:
                return

    def _begin(self, positions: Positions | None) -> dict[int, _Partition[R]]:
        topic = self._consumer.list_topics(self._topic, timeout=TIMEOUT).topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        known = positions.offsets if positions is not None else {}
        fresh = sorted(topic.partitions.keys() - known.keys())
        offsets = {**{n: offset for n, offset in known.items() if n in topic.partitions}, **self._seek(fresh)}
        parts: dict[int, _Partition[R]] = {
            number: _Partition(offset, ended=offset == OFFSET_END) for number, offset in offsets.items()
        }
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

    def _next(self, deadline: float) -> _Partition[R] | None:
        """The partition whose next message is the oldest; None where nothing is left."""
        while any(not part.ended and not part.waiting for part in self._parts.values()):
            if time.monotonic() > deadline:
                raise SearchError(f"{self._topic}: not read within {TIMEOUT:.0f} s")
            self._pause()
            try:
                for message in self._consumer.consume(500, timeout=0.05):
                    self._take(message)
            except KafkaException as error:
                raise SearchError(f"{self._topic}: {error.args[0].str()}") from None
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
        part.waiting.append((at, (message.offset() or 0) + 1, self._read(message)))

    def _read(self, message: Message) -> R | None:
        try:
            return self._query.read(messages.key(message), messages.value(message))
        except EnvelopeError:
            return None
