"""Reads a partition by a plain client: what Faust has not handed over, and what it would hand over too slowly.

A message costs Faust some forty times what it costs librdkafka (docs/decisions/0020-ledger.md).
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents.connection import consumer_config
from sfumato.agents.ledger.entries import Place
from sfumato.agents.settings import Settings

TIMEOUT = 10.0
"""Longest wait for the end of a partition to be seen, or told, in seconds."""


class Bounds:
    """What the broker has of partitions. Not thread-safe; close it."""

    def __init__(self, settings: Settings) -> None:
        options = {"auto.offset.reset": "error", "fetch.wait.max.ms": 10}
        self._consumer = Consumer(consumer_config(settings, settings.group_id) | options)

    def kept(self, place: Place) -> range:
        """The offsets from the first that is not deleted to the partition's end, asked now. KafkaException or
        TimeoutError where the broker does not answer."""
        deadline = time.monotonic() + TIMEOUT
        first, end = self._ask(place, deadline)
        # The embedded broker says where its last batch begins, not where it ends, so the end is read.
        self._consumer.assign([TopicPartition(*place, end)])
        try:
            while (message := self._consumer.poll(max(0.0, deadline - time.monotonic()))) is not None:
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return range(first, message.offset() or 0)
                if error is not None:
                    raise KafkaException(error)
        finally:
            self._consumer.unassign()
        raise TimeoutError(f"{place}: its end is not seen")

    def _ask(self, place: Place, deadline: float) -> tuple[int, int]:
        while True:
            try:
                found = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT, cached=False)
            except KafkaException:  # also while a leader is elected, which the client does not wait for
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            if found is None:
                raise TimeoutError(f"{place}: the broker does not say what it has of it")
            return found

    def close(self) -> None:
        self._consumer.close()


class BulkReader:
    """One partition, from wherever it is asked for. Not thread-safe; close it."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self._place = place
        self._position: int | None = None
        self._consumer = Consumer(
            consumer_config(settings, settings.group_id)
            | {"fetch.wait.max.ms": 20, "queued.max.messages.kbytes": 16 * 1024}
        )

    def read(self, offset: int, most: int) -> list[Message]:
        """The messages from the offset on, ``most`` at most; fewer: the partition's end was reached. KafkaException
        where it cannot be read, TimeoutError where nothing comes."""
        if offset != self._position:
            self._consumer.assign([TopicPartition(self._place.topic, self._place.partition, offset)])
        found: list[Message] = []
        deadline = time.monotonic() + TIMEOUT
        at_end = False
        while len(found) < most and not at_end:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._place} could not be read")
            for message in self._consumer.consume(most - len(found), timeout=0.02):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end = True
                else:
                    raise KafkaException(error)
        self._position = (found[-1].offset() or 0) + 1 if found else offset
        if at_end:
            self._consumer.unassign()  # else it would go on fetching what nobody reads
            self._position = None
        return found

    def close(self) -> None:
        self._consumer.close()
