"""The epochs that cameras had, from the end of topic ``epochs``: a new one must be newer than each of them.

Readers take an older epoch for one that they have seen (``agents/runs.py``). An epoch is a time, so where a clock was
ahead and then put right, the next one would be older, and whatever belongs to it would be dropped without a word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sfumato.agents import messages
from sfumato.agents.connection import consumer_config
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.topics import EPOCHS

log = logging.getLogger(__name__)

NEWEST_RECORDS = 20_000
"""Read of the topic at most. Each camera of the city writes one about every 5 s: of 100 cameras it is the last quarter
of an hour."""
TIMEOUT = 5.0
"""Seconds for each answer of the broker, and for all records. Then cameras begin without it."""
LARGEST = 2**63 - 2
"""A newer epoch would break the contract."""


def newest(settings: Settings, cameras: Collection[str]) -> dict[str, int]:
    """Of each camera that the newest records name. Never raises for what the broker does: what it does not tell is said
    in the log."""
    found: dict[str, int] = {}
    topic = settings.topic(EPOCHS)
    consumer = Consumer(consumer_config(settings, f"{settings.group_id}-{EPOCHS.name}"))
    try:
        _read(consumer, topic, frozenset(cameras), found)
    except KafkaException as error:
        log.warning("%s was not read to its end: %s; epochs begin by this machine's clock", topic, error.args[0].str())
    finally:
        consumer.close()
    return found


def begin(newest: int | None) -> int:
    """A new epoch: milliseconds since 1970 by this machine's clock, or one more than the newest."""
    now = int(time.time() * 1000)
    return now if newest is None else max(now, newest + 1)


def _read(consumer: Consumer, topic: str, cameras: frozenset[str], found: dict[str, int]) -> None:
    place = TopicPartition(topic, 0)
    first, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT)
    place.offset = max(first, end - NEWEST_RECORDS)
    consumer.assign([place])
    deadline = time.monotonic() + TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        message = consumer.poll(left)
        if message is None:
            break
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return
            raise KafkaException(error)
        key = messages.key(message) or b""
        if key.decode(errors="replace") in cameras:
            _take(messages.value(message), found)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def _take(value: bytes | None, found: dict[str, int]) -> None:
    try:
        record = EpochRecord.from_message(value)
    except EnvelopeError as error:
        log.warning("a message of epochs breaks its contract: %s", error)
        return
    if record.epoch <= LARGEST:
        found[record.camera] = max(record.epoch, found.get(record.camera, 0))
