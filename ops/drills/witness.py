"""Read topics from their beginning, through whatever the broker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents.settings import Settings
from sfumato.schemas.topics import Topic


class Witness(threading.Thread):
    """Hands every message to ``take``, in the order of its partition. ``lock`` guards it."""

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[Topic],
        take: Callable[[Topic, Message], None],
        lock: threading.Lock,
    ) -> None:
        super().__init__(name="witness", daemon=True)
        self.problem: BaseException | None = None
        self.heard = time.monotonic()
        """When a message was read last (monotonic, seconds)."""
        self._take, self._lock = take, lock
        self._closing = threading.Event()
        self._topics = {settings.topic(topic): topic for topic in topics}
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
                    self._read(message)
        except BaseException as error:  # noqa: BLE001 - a witness that fell silent must not look like a quiet system
            self.problem = error

    def caught_up(self) -> bool:
        """Whether all that is on the topics now has been read."""
        ends = [self._asking.get_watermark_offsets(place, timeout=10)[1] for place in self._places]
        return all(self._next[p.topic, p.partition] >= end for p, end in zip(self._places, ends, strict=True))

    def close(self) -> None:
        self._closing.set()
        self.join(10)
        self._consumer.close()
        self._asking.close()

    def _read(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if not error.retriable() and error.code() not in _PASSING:
                raise KafkaException(error)
            return
        self.heard = time.monotonic()
        with self._lock:
            self._take(self._topics[message.topic() or ""], message)
        self._next[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1


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
