"""The bridge's way out of Kafka: a thread that follows ``frames.anonymized``, and what of it may be shown.

It reads that topic and nothing else. A message that breaks its contract, or is neither JPEG nor H.264, is counted
and never shown.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents import messages, metrics
from sfumato.agents.connection import consumer_config, diagnose
from sfumato.agents.live import Live
from sfumato.agents.settings import Settings
from sfumato.models import bitstream
from sfumato.models.bitstream import BitstreamError, ParameterSets
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from sfumato.schemas.unit import H264

log = logging.getLogger(__name__)

HANDED_OVER = 8
"""Frames on their way to the event loop at most, so that a busy loop does not fill the memory."""
KAFKA_TIMEOUT = 2.0
"""Longest wait for an answer of the broker, in seconds; also the longest that closing waits."""
JPEG = b"\xff\xd8\xff"


class Reader(threading.Thread):
    """Follows ``frames.anonymized`` from its end and hands each frame to the event loop.

    While the broker is away it waits, says so in the log and begins at the end again.
    """

    def __init__(self, settings: Settings, live: Live, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="live", daemon=True)
        self.assigned: list[TopicPartition] = []
        """What is read from Kafka; empty while the broker does not answer."""
        self._settings = settings
        self._topic = settings.topic(FRAMES_ANONYMIZED)
        self._live = live
        self._loop = loop
        self._closing = threading.Event()
        self._room = threading.Semaphore(HANDED_OVER)
        self._consumer = Consumer(
            consumer_config(settings, f"{settings.group_id}-bridge")
            | {
                "enable.partition.eof": False,
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
            secured = self._settings.kafka_security_protocol != "plaintext"
            problem = diagnose(self._settings, KAFKA_TIMEOUT) if secured else None
            log.warning("waiting for the broker: %s", problem or error.args[0].str())
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
    headers = messages.headers(message)
    frame = AnonymizedFrame.from_message(messages.key(message), messages.value(message), headers)
    check(frame)
    return frame


def check(frame: AnonymizedFrame) -> None:
    """:class:`EnvelopeError` where the value is not what its headers say."""
    if frame.unit is not None:
        _check_unit(frame.payload, frame.unit.keyframe)
    elif frame.content_type != "image/jpeg" or not frame.payload.startswith(JPEG):
        raise EnvelopeError("value", "neither JPEG nor H.264")
    if frame.outcome is Outcome.DROPPED or (frame.outcome is Outcome.MASKED) != (frame.reason is None):
        raise EnvelopeError("ce_outcome", "dropped, or at odds with ce_reason")


def _check_unit(payload: bytes, keyframe: bool) -> None:
    """A well-formed access unit; one that a decoder can begin with exactly where the header says so."""
    sets = ParameterSets(H264)
    try:
        nals = bitstream.split(payload)
        unit = bitstream.read(H264, nals)
        sets.learn(nals)
    except BitstreamError as error:
        raise EnvelopeError("value", f"no H.264 access unit: {error}") from None
    if unit.keyframe != keyframe:
        raise EnvelopeError("ce_keyframe", "at odds with the value")
    if keyframe and not sets.complete:
        raise EnvelopeError("value", "a keyframe without its parameter sets")
