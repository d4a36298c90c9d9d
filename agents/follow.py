"""Follow a topic of one partition: read whole from its beginning, or from a time, at start, then as it grows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents import messages
from sfumato.agents.connection import consumer_config
from sfumato.agents.settings import Settings
from sfumato.schemas.topics import Topic

log = logging.getLogger(__name__)
T = TypeVar("T")

Take = Callable[[bytes | None, bytes | None, datetime], None]
"""Is given each message's key and value, and when it was written, in order."""


class Follower(threading.Thread):
    """Calls ``take`` on its own thread. :meth:`load` returns once every message written before it has been taken."""

    def __init__(self, settings: Settings, topic: Topic, take: Take, *, since: datetime | None = None) -> None:
        super().__init__(name=topic.name, daemon=True)
        self._topic = settings.topic(topic)
        self._take = take
        self._since = since
        self._loaded = threading.Event()
        self._closing = threading.Event()
        self._options = consumer_config(settings, f"{settings.group_id}-{topic.name}") | {"fetch.wait.max.ms": 100}

    def load(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._consumer = Consumer(self._options)
        try:
            place = TopicPartition(self._topic, 0, OFFSET_BEGINNING)
            if self._since is not None:
                wanted = TopicPartition(self._topic, 0, int(self._since.timestamp() * 1000))
                (place,) = self._consumer.offsets_for_times([wanted], timeout=timeout)
            self._consumer.assign([place])
        except KafkaException as error:
            raise TimeoutError(f"{self._topic} could not be read: {error.args[0].str()}") from None
        self.start()
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"{self._topic} could not be read within {timeout} s; is the broker up?")

    def close(self) -> None:
        self._closing.set()
        if self.is_alive():
            self.join()
            self._consumer.close()

    def run(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            if (error := message.error()) is None:
                self._hand_over(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._loaded.set()
            else:
                log.warning("reading %s: %s", self._topic, error.str())

    def _hand_over(self, message: Message) -> None:
        try:
            at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
            self._take(messages.key(message), messages.value(message), at)
        except Exception:  # the thread must go on: a later message may suspend a camera
            log.exception("a message of %s was not taken", self._topic)


def drain(queue: SimpleQueue[T]) -> list[T]:
    """What lies in a queue that a follower fills."""
    found = []
    while True:
        try:
            found.append(queue.get_nowait())
        except Empty:
            return found
