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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from sfumato.agents import metrics
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.topics import FRAMES_ANONYMIZED

log = logging.getLogger(__name__)

STALE_AFTER = 2.0
LOST_AFTER = 10.0
"""Seconds without a new frame after which a camera counts as stale, and as lost."""
RATE_WINDOW = 5.0
"""Seconds over which the frame rate is counted."""
JPEG = b"\xff\xd8\xff"


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

    def fps(self, now: float) -> float:
        recent = sum(1 for arrival in self.arrivals if now - arrival <= RATE_WINDOW)
        return round(recent / RATE_WINDOW, 1)


class Live:
    """The newest frame per camera; all methods belong to the event loop's thread.

    Viewers wait for a frame newer than the one they have, so a slow one skips to the newest and holds up nobody.
    """

    def __init__(self) -> None:
        self.cameras: dict[str, Shown] = {}
        self._changed: dict[str, asyncio.Event] = {}

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
        self._changed.pop(camera, asyncio.Event()).set()

    async def newer_than(self, camera: str, seen: AnonymizedFrame | None) -> Shown:
        """The camera's newest frame, as soon as it is another one than ``seen``."""
        while (shown := self.cameras.get(camera)) is None or shown.frame is seen:
            await self._changed.setdefault(camera, asyncio.Event()).wait()
        return shown


class Reader(threading.Thread):
    """Follows ``frames.anonymized`` from its end and hands each frame to the event loop."""

    def __init__(self, settings: Settings, live: Live, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="live", daemon=True)
        self.assigned: list[TopicPartition] = []
        """What is read from Kafka; empty until the broker has answered."""
        self._topic = settings.topic(FRAMES_ANONYMIZED)
        self._live = live
        self._loop = loop
        self._closing = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": f"{settings.group_id}-bridge",  # required by the client; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 20,
                "queued.max.messages.kbytes": 64 * 1024,
            }
        )

    def close(self) -> None:
        self._closing.set()
        self.join()
        self._consumer.close()

    def run(self) -> None:
        while not self.assigned and not self._closing.is_set():
            self._assign()
        while not self._closing.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            if (problem := message.error()) is not None:
                log.warning("reading %s: %s", self._topic, problem.str())
                continue
            try:
                frame = parse(message)
            except EnvelopeError as error:
                metrics.BRIDGE_REFUSED.inc()
                log.warning("a message of %s is not shown: %s", self._topic, error)
                continue
            self._loop.call_soon_threadsafe(self._live.put, frame)

    def _assign(self) -> None:
        try:
            found = self._consumer.list_topics(self._topic, timeout=5).topics[self._topic]
        except KafkaException as error:
            log.warning("waiting for the broker: %s", error.args[0].str())
            return
        if found.error is not None or not found.partitions:
            log.warning("waiting for topic %s; `sfumato topics` creates it", self._topic)
            self._closing.wait(1)
            return
        self.assigned = [TopicPartition(self._topic, number, OFFSET_END) for number in found.partitions]
        self._consumer.assign(self.assigned)
        log.info("reading %s, %d partitions", self._topic, len(found.partitions))


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
    return frame


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
