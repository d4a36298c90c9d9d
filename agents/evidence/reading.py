"""What is in a topic, read from Kafka to its end: by the commands that hand the ledger out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents.connection import consumer_config
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault
from sfumato.schemas.topics import Topic

TIMEOUT = 20.0
"""Longest wait for an answer of the broker, in seconds."""


class ReadError(Fault, RuntimeError):
    """A topic cannot be read, or no longer holds what is needed; says what to do."""


class Reading:
    """One topic. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, topic: Topic) -> None:
        self.name = settings.topic(topic)
        self._consumer = Consumer(
            consumer_config(settings, f"{settings.group_id}-export") | {"queued.max.messages.kbytes": 32 * 1024}
        )
        try:
            # All topics: asking for one by name lets some brokers create it.
            found = self._consumer.list_topics(timeout=TIMEOUT).topics.get(self.name)
        except BaseException:
            self._consumer.close()
            raise
        if found is None or found.error is not None:
            self._consumer.close()
            raise ReadError(f"there is no topic {self.name}; `sfumato topics` creates it")
        self.partitions = sorted(found.partitions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def offsets_at(self, moment: datetime) -> dict[int, int]:
        """By partition, where the messages written at ``moment`` or later begin."""
        milliseconds = max(0, int(moment.timestamp() * 1000))
        wanted = [TopicPartition(self.name, number, milliseconds) for number in self.partitions]
        return {place.partition: place.offset for place in self._consumer.offsets_for_times(wanted, timeout=TIMEOUT)}

    def messages(self, starts: Mapping[int, int] | None = None, until: datetime | None = None) -> Iterator[Message]:
        """The messages of the partitions that ``starts`` gives an offset for (None: of all, from their beginning), to
        the end of each; of one that was written after ``until`` and what follows it in its partition, none. Raises
        :class:`ReadError` where the broker says nothing for long."""
        starts = dict.fromkeys(self.partitions, OFFSET_BEGINNING) if starts is None else starts
        self._consumer.assign([TopicPartition(self.name, number, offset) for number, offset in starts.items()])
        unread, heard = set(starts), time.monotonic()
        while unread:
            taken = self._consumer.consume(500, timeout=0.1)
            if taken:
                heard = time.monotonic()
            elif time.monotonic() - heard > TIMEOUT:
                raise ReadError(f"{self.name} could not be read within {TIMEOUT:g} s; is the broker up?")
            for message in taken:
                partition, error = message.partition() or 0, message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if partition not in unread:
                    continue
                if error is None and (until is None or message.timestamp()[1] <= until.timestamp() * 1000):
                    yield message
                else:
                    unread.discard(partition)
                    self._consumer.incremental_unassign([TopicPartition(self.name, partition)])


class Offsets:
    """Reads ranges of offsets that mostly follow each other, without asking the broker anew for each."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._messages: Iterator[Message] = iter(())
        self._partition = -1
        self._next = 0
        self._back: deque[Message] = deque()

    def between(self, partition: int, first: int, last: int) -> Iterator[Message]:
        """The messages of offsets ``first`` to ``last``. Raises :class:`ReadError` where the topic ends before."""
        if partition != self._partition or first < self._next:
            self._messages = self._reading.messages({partition: first})
            self._partition, self._next = partition, first
            self._back.clear()
        while self._next <= last:
            message = self._back.popleft() if self._back else next(self._messages, None)
            if message is None:
                raise ReadError(f"{self._reading.name}, partition {partition}, ends before offset {last}")
            offset = message.offset() or 0
            if offset > last:
                self._back.append(message)
                return
            self._next = offset + 1
            if offset >= first:
                yield message
