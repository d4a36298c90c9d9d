"""``sfumato share``: copy a vendor's cameras from ``frames.anonymized`` into the vendor's topic.

At least once, in order per camera: a batch is acknowledged once the broker has all its copies, and the next one is read
after that. A copy has the key, the value and the headers of its original, byte for byte. A message that breaks its
contract, or is neither JPEG nor H.264, is counted and goes to nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Received

from sfumato.agents import metrics, provision
from sfumato.agents.connection import consumer_config
from sfumato.agents.produce import Producer
from sfumato.agents.reader import parse
from sfumato.agents.settings import Settings
from sfumato.agents.shares import Vendor
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.frame import Message
from sfumato.schemas.topics import FRAMES_ANONYMIZED

log = logging.getLogger(__name__)

BATCH = 64
"""Messages read, copied and acknowledged together, at most."""
GRACE = 10.0
"""Seconds that a batch may take once the process is told to end; it is copied again by the next otherwise."""
HOPELESS = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


class UnsharedError(Fault, RuntimeError):
    """A copy was refused for good; the text names the topic. It and what follows it is copied at the next start."""


class Deliveries:
    """Copies on their way to the broker. :meth:`answered` is called by the producer's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._problem: str | None = None

    def begin(self) -> None:
        with self._changed:
            self._open += 1

    def answered(self, topic: str, error: KafkaError | None) -> None:
        with self._changed:
            self._open -= 1
            if error is not None:
                self._problem = f"{topic}: {error.str()}"
            self._changed.notify_all()

    def wait(self, stopping: threading.Event) -> bool:
        """Until all have arrived; False where the process is to end and they have not. :class:`UnsharedError` where
        one is refused."""
        deadline = None
        with self._changed:
            while self._open and self._problem is None:
                self._changed.wait(0.2)
                if stopping.is_set():
                    deadline = deadline or time.monotonic() + GRACE
                    if time.monotonic() > deadline:
                        return False
            if self._problem is not None:
                raise UnsharedError(f"a copy was not taken: {self._problem}")
        return True


def share(settings: Settings, vendors: Sequence[Vendor], stopping: threading.Event) -> None:
    """Copy until ``stopping``. Raises TopicError, :class:`UnsharedError`, KafkaException."""
    provision.check(settings, (FRAMES_ANONYMIZED, *(vendor.topic for vendor in vendors)))
    metrics.serve(settings)
    consumer = Consumer(
        consumer_config(settings, f"{settings.group_id}-share")
        | {
            "enable.partition.eof": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "queued.max.messages.kbytes": 64 * 1024,
        }
    )
    producer = Producer(settings, client_id="sfumato-share")
    try:
        consumer.subscribe([settings.topic(FRAMES_ANONYMIZED)])
        while not stopping.is_set():
            _show_lag(consumer)
            if (read := _readable(consumer.consume(BATCH, timeout=0.05))) and _copy(producer, vendors, read, stopping):
                _acknowledge(consumer, read)
    finally:
        producer.close(0)
        consumer.close()


def _show_lag(consumer: Consumer) -> None:
    """By what the broker said with the last fetch: costs no request."""
    waiting = 0
    places = consumer.position(consumer.assignment())
    for place in places:
        _, end = consumer.get_watermark_offsets(place, cached=True)
        waiting += max(0, end - place.offset) if place.offset >= 0 else 0
    metrics.SHARE_ASSIGNED.set(len(places))
    metrics.SHARE_LAG.set(waiting)


def _readable(messages: Sequence[Received]) -> list[Received]:
    """Those that are no errors."""
    for error in filter(None, (message.error() for message in messages)):
        if error.fatal() or error.code() in HOPELESS:
            raise KafkaException(error)
        log.warning("reading: %s", error.str())  # the client tries again
    return [message for message in messages if message.error() is None]


def _copy(
    producer: Producer, vendors: Sequence[Vendor], messages: Sequence[Received], stopping: threading.Event
) -> bool:
    """Whether all copies have arrived; False: the process is to end first."""
    deliveries = Deliveries()
    shared: list[str] = []
    for received in messages:
        try:
            camera = parse(received).id.camera
        except EnvelopeError as error:
            metrics.SHARE_REFUSED.inc()
            log.warning("a message of frames.anonymized is not shared: %s", error)
            continue
        copy = Message(received.key(), received.value(), received.headers())  # type: ignore[arg-type]
        for vendor in (vendor for vendor in vendors if vendor.gets(camera)):
            shared.append(vendor.name)
            if not _send(producer, vendor, copy, deliveries, stopping):
                return False
    if not deliveries.wait(stopping):
        return False
    for name in shared:
        metrics.SHARED.labels(name).inc()
    return True


def _send(producer: Producer, vendor: Vendor, copy: Message, deliveries: Deliveries, stopping: threading.Event) -> bool:
    name = vendor.topic.name
    deliveries.begin()
    while not producer.try_send(vendor.topic, copy, lambda error: deliveries.answered(name, error)):
        if stopping.wait(0.01):  # the queue is full: the broker is away
            return False
    return True


def _acknowledge(consumer: Consumer, messages: Sequence[Received]) -> None:
    ends = {(message.topic(), message.partition()): message.offset() for message in messages}
    offsets = [TopicPartition(topic, partition, offset + 1) for (topic, partition), offset in ends.items()]  # type: ignore[arg-type, operator]
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:  # a rebalance, or the broker is away: whoever reads them next copies them again
        log.warning("not acknowledged: %s", error.args[0].str())
