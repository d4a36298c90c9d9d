"""The newest anonymized frame of each camera, and the thread that reads them from Kafka.

It reads ``frames.anonymized`` and nothing else. A message that breaks its contract, or is no JPEG, is counted
and never shown.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast
from weakref import WeakValueDictionary

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents import metrics
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import FRAMES_ANONYMIZED

log = logging.getLogger(__name__)

STALE_AFTER = 2.0
LOST_AFTER = 10.0
"""Seconds without a new frame after which a camera counts as stale, and as lost."""
RATE_WINDOW = 5.0
"""Seconds over which the frame rate is counted."""
HANDED_OVER = 8
"""Frames on their way to the event loop at most, so that a busy loop does not fill the memory."""
JPEG = b"\xff\xd8\xff"
KAFKA_TIMEOUT = 2.0
"""Longest wait for an answer of the broker, in seconds; also the longest that closing waits."""
GOODBYE_TIMEOUT = 2.0
"""Seconds given to viewers to be told that the bridge goes away."""


class State(StrEnum):
    LIVE = "live"
    STALE = "stale"
    LOST = "lost"


@dataclass(slots=True)
class Shown:
    """What the bridge knows of one camera. ``arrived`` is monotonic, in seconds."""

    frame: AnonymizedFrame
    arrived: float
    latency_ms: int
    viewers: int = 0
    arrivals: deque[float] = field(default_factory=deque)

    def state(self, now: float) -> State:
        age = now - self.arrived
        return State.LIVE if age < STALE_AFTER else State.STALE if age < LOST_AFTER else State.LOST

    def age_ms(self, now: float) -> int:
        return round((now - self.arrived) * 1000)

    def fps(self, now: float) -> float:
        recent = sum(1 for arrival in self.arrivals if now - arrival <= RATE_WINDOW)
        return round(recent / RATE_WINDOW, 1)


class Live:
    """The newest frame per camera; all methods belong to the event loop's thread.

    Viewers wait for a frame newer than the one they have, so a slow one skips to the newest and holds up nobody.
    """

    def __init__(self) -> None:
        self.cameras: dict[str, Shown] = {}
        self.closing = asyncio.Event()
        self._watchers: set[asyncio.Task[None]] = set()
        # Weak: an event lives while somebody waits for it, so made-up camera ids leave nothing behind.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def put(self, frame: AnonymizedFrame) -> None:
        """Take a frame; one that is older than, or the same as, what is shown already is left out."""
        camera, now = frame.id.camera, time.monotonic()
        shown = self.cameras.get(camera)
        if shown is not None and frame.id <= shown.frame.id:
            return
        latency = round((datetime.now(UTC) - frame.captured_at).total_seconds() * 1000)
        if shown is None:
            shown = self.cameras[camera] = Shown(frame, now, latency)
        shown.frame, shown.arrived, shown.latency_ms = frame, now, latency
        shown.arrivals.append(now)
        while now - shown.arrivals[0] > RATE_WINDOW:
            shown.arrivals.popleft()
        metrics.BRIDGE_FRAMES.labels(camera).inc()
        if (changed := self._changed.pop(camera, None)) is not None:
            changed.set()

    async def newer_than(self, camera: str, seen: AnonymizedFrame | None) -> Shown:
        """The camera's newest frame, as soon as it is another one than ``seen``."""
        while (shown := self.cameras.get(camera)) is None or shown.frame is seen:
            await self._changed.setdefault(camera, asyncio.Event()).wait()
        return shown

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a viewer's task, so that :meth:`close` can wait for it."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._watchers.add(task)
        try:
            yield
        finally:
            self._watchers.discard(task)

    async def close(self) -> None:
        """Send every viewer away, waiting a moment for slow ones."""
        self.closing.set()
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=GOODBYE_TIMEOUT)


class Reader(threading.Thread):
    """Follows ``frames.anonymized`` from its end and hands each frame to the event loop.

    While the broker is away it waits, says so in the log and begins at the end again.
    """

    def __init__(self, settings: Settings, live: Live, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="live", daemon=True)
        self.assigned: list[TopicPartition] = []
        """What is read from Kafka; empty while the broker does not answer."""
        self._topic = settings.topic(FRAMES_ANONYMIZED)
        self._live = live
        self._loop = loop
        self._closing = threading.Event()
        self._room = threading.Semaphore(HANDED_OVER)
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": f"{settings.group_id}-bridge",  # required by the client; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 20,
                "queued.max.messages.kbytes": 64 * 1024,
                "error_cb": self._on_error,
            }
        )

    @property
    def ready(self) -> bool:
        return self.is_alive() and bool(self.assigned)

    def close(self) -> None:
        self._closing.set()
        self.join()
        self._consumer.close()

    def run(self) -> None:
        while not self._closing.is_set():
            if not self.assigned:
                self._assign()
            elif (message := self._consumer.poll(0.2)) is not None:
                self._take(message)

    def _take(self, message: Message) -> None:
        if (problem := message.error()) is not None:
            log.warning("reading %s: %s", self._topic, problem.str())
            if problem.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
                self.assigned = []
            return
        try:
            frame = parse(message)
        except EnvelopeError as error:
            metrics.BRIDGE_REFUSED.inc()
            log.warning("a message of %s is not shown: %s", self._topic, error)
            return
        while not self._room.acquire(timeout=0.2):  # the loop is busy: what follows waits in the client's bounded queue
            if self._closing.is_set():
                return
        self._loop.call_soon_threadsafe(self._hand_over, frame)

    def _hand_over(self, frame: AnonymizedFrame) -> None:
        self._room.release()
        self._live.put(frame)

    def _assign(self) -> None:
        try:
            # All topics: asking for one by name lets some brokers create it.
            found = self._consumer.list_topics(timeout=KAFKA_TIMEOUT).topics.get(self._topic)
            places = [TopicPartition(self._topic, n) for n in (found.partitions if found else ())]
            # Asked for now rather than left to the client, so that nothing sent after "ready" is missed.
            ends = [self._consumer.get_watermark_offsets(place, timeout=KAFKA_TIMEOUT)[1] for place in places]
        except KafkaException as error:
            log.warning("waiting for the broker: %s", error.args[0].str())
            self._closing.wait(0.5)
            return
        if not places:
            log.warning("waiting for topic %s; `sfumato topics` creates it", self._topic)
            self._closing.wait(0.5)
            return
        for place, end in zip(places, ends, strict=True):
            place.offset = end
        self._consumer.assign(places)
        self.assigned = places
        log.info("reading %s, %d partitions", self._topic, len(places))

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.assigned = []


def parse(message: Message) -> AnonymizedFrame:
    """The frame that may be shown; :class:`EnvelopeError` where there is any doubt."""
    try:
        headers = message.headers() or []
    except SystemError:  # confluent-kafka's answer to a header name that is not UTF-8
        raise EnvelopeError("headers", "a name is not UTF-8") from None
    key, value = message.key(), message.value()
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    frame = AnonymizedFrame.from_message(_bytes(key), _bytes(value), pairs)
    if frame.content_type != "image/jpeg" or not frame.payload.startswith(JPEG):
        raise EnvelopeError("value", "not a JPEG")
    if frame.outcome is Outcome.DROPPED or (frame.outcome is Outcome.MASKED) != (frame.reason is None):
        raise EnvelopeError("ce_outcome", "dropped, or at odds with ce_reason")
    return frame


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
