"""The one way to Kafka: an idempotent producer that waits for all replicas and counts what comes back.

Delivery guarantee: :meth:`Producer.send` never loses a message silently. Its callback is called exactly
once, with an error or None; librdkafka retries for ever meanwhile (``message.timeout.ms=0``), in order per
partition and without duplicates from retries.

confluent-kafka rather than Faust's aiokafka producer: a tenth of the CPU per 100 KB message, and
idempotence without transactions (``docs/decisions/0003-producer.md``).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError
from confluent_kafka import Producer as KafkaProducer

from sfumato.agents.connection import client_config
from sfumato.agents.settings import Settings
from sfumato.schemas.frame import Message
from sfumato.schemas.topics import MAX_MESSAGE_BYTES, Topic

OnDelivery = Callable[[KafkaError | None], None]


class Producer:
    """Thread-safe. Callbacks run on the producer's own thread: keep them short.

    ``idempotent`` False is for a process that outlives its broker and whose messages name themselves: a broker that
    comes back without its memory ends an idempotent producer for good.
    """

    def __init__(self, settings: Settings, *, client_id: str, idempotent: bool = True) -> None:
        self._settings = settings
        self._producer = KafkaProducer(
            {
                **client_config(settings),
                "client.id": client_id,
                "enable.idempotence": idempotent,
                "acks": "all",
                "message.timeout.ms": 0,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "linger.ms": 0,
                "compression.type": "none",
                # The caller bounds the bytes in flight; these are the library's own, higher limits.
                "queue.buffering.max.kbytes": max(2 * settings.queue_bytes // 1024, 64 * 1024),
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"{client_id}-delivery", daemon=True)
        self._poller.start()

    def send(self, topic: Topic, message: Message, on_delivery: OnDelivery, partition: int = -1) -> None:
        """Queue one message; ``partition`` -1: that of its key. Raises BufferError when the queue is full,
        KafkaException when it is too large."""
        self._producer.produce(
            self._settings.topic(topic),
            value=message.value,
            key=message.key,
            headers=message.headers,
            partition=partition,
            on_delivery=lambda error, _: on_delivery(error),
        )

    def try_send(self, topic: Topic, message: Message, on_delivery: OnDelivery, partition: int = -1) -> bool:
        """As :meth:`send`, but False instead of BufferError when the queue is full."""
        try:
            self.send(topic, message, on_delivery, partition)
        except BufferError:
            return False
        return True

    def close(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for what is queued; returns how many messages were left undelivered."""
        left: int = self._producer.flush(timeout)
        self._closing.set()
        self._poller.join()
        return left

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.2)


async def deliver(producer: Producer, messages: Sequence[tuple[Topic, Message]]) -> None:
    """Send, and wait until the broker has acknowledged all; RuntimeError where it refuses one."""
    loop = asyncio.get_running_loop()
    acknowledged: list[asyncio.Future[None]] = [loop.create_future() for _ in messages]
    for (topic, message), future in zip(messages, acknowledged, strict=True):

        def on_delivery(error: KafkaError | None, future: asyncio.Future[None] = future) -> None:
            loop.call_soon_threadsafe(_settle, future, error)

        while not producer.try_send(topic, message, on_delivery):
            await asyncio.sleep(0.01)
    await asyncio.gather(*acknowledged)


def _settle(future: asyncio.Future[None], error: KafkaError | None) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(RuntimeError(f"delivery failed: {error.str()}"))
