"""Faust's Kafka driver (aiokafka): how records are handed on, and two mends that it offers no setting for. Imported by
``agents.app``.

Both reach into private parts, so the versions are pinned in pyproject.toml and tests hold them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.utils import DefaultSchedulingStrategy

FETCH_MAX_WAIT_MS = 20
"""Longest wait of the broker for a fetch to fill. Faust hard-codes 1,500: half a second of latency."""
UNREADABLE = (("ce_unreadable", None),)
"""Headers given to a record that could not be parsed: no contract accepts them."""


class OldestFirst(DefaultSchedulingStrategy):  # type: ignore[misc]
    """Hands on what was fetched from several partitions in the order it was written, each partition's in its own.

    Faust takes them in turns. The records of a busy partition then wait longer than those of a quiet one, and where a
    policy skips what is late, its cameras would be skipped always (``ops/drills``, ``overload``).
    """

    def iterate(self, records: Mapping[Any, list[Any]]) -> Iterator[tuple[Any, Any]]:
        fetched = ([(place, record) for record in found] for place, found in records.items())
        return heapq.merge(*fetched, key=lambda item: item[1].timestamp)


def mend() -> None:
    """Apply both mends; idempotent."""
    fetcher.PartitionRecords = TolerantRecords
    AIOKafkaConsumerThread._create_worker_consumer = _create_prompt_consumer


def polled(app: Any) -> int | None:
    """When the broker last answered a fetch, as aiokafka notes it (milliseconds, by the wall clock); None: not yet."""
    consumer = app.consumer._thread._consumer
    assigned = consumer.assignment() if consumer is not None else ()
    with suppress(AssertionError):  # not assigned any more
        return max((at for tp in assigned if (at := consumer.last_poll_timestamp(tp)) is not None), default=None)
    return None


class TolerantRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one fetch, of which none can stop the consumer.

    aiokafka raises UnicodeDecodeError for a header name that is not UTF-8, again and again at the same place: one
    hostile message would block its partition for good. Here that record, and what follows it in its batch (which
    one producer wrote), comes out without key and value, so that each is audited as dropped.
    """

    _records: Any
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        self._records = batches = _Batches(self._records)
        while True:
            try:
                yield from super()._unpack_records()
                return
            except UnicodeDecodeError:
                for offset in range(self.next_fetch_offset, batches.last.next_offset):
                    self.next_fetch_offset = offset + 1
                    yield _unreadable(self._tp, offset)


class _Batches:
    """aiokafka's MemoryRecords, remembering the batch it gave last."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.last: Any = None

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        self.last = self._records.next_batch()
        return self.last


def _unreadable(tp: Any, offset: int) -> Any:
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, None, None, -1, -1, UNREADABLE)


_create_worker_consumer = AIOKafkaConsumerThread._create_worker_consumer


def _create_prompt_consumer(self: Any, transport: Any) -> Any:
    consumer = _create_worker_consumer(self, transport)
    consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
    return consumer
