"""``sfumato record``: one camera's anonymized pictures, JPEG or H.264, into an MP4 file."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents.connection import consumer_config
from sfumato.agents.decoding import UndecodableError, UnitDecoder
from sfumato.agents.mp4 import Film, Timeline
from sfumato.agents.reader import parse
from sfumato.agents.runs import Seen
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.topics import FRAMES_ANONYMIZED

log = logging.getLogger(__name__)

KAFKA_TIMEOUT = 15.0
"""Longest wait for an answer of the broker, in seconds."""
RUNS = 4
"""Encoder runs decoded side by side: for a moment a dying worker's and its successor's come mixed."""


class RecordError(Fault, RuntimeError):
    """Nothing can be recorded; the text says why and what to do."""


class CameraMessages:
    """The messages of one camera on ``frames.anonymized``. A context manager; not thread-safe.

    Every partition is read until the camera's first message, then only the one that has it.
    """

    def __init__(self, settings: Settings, camera: str, *, from_beginning: bool) -> None:
        self._key = camera.encode()
        self._topic = settings.topic(FRAMES_ANONYMIZED)
        self._consumer = Consumer(
            consumer_config(settings, f"{settings.group_id}-record") | {"queued.max.messages.kbytes": 32 * 1024}
        )
        self._found = False
        try:
            self._unread = self._assign(from_beginning)
        except BaseException:
            self._consumer.close()
            raise

    def __enter__(self) -> CameraMessages:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    @property
    def at_end(self) -> bool:
        """Whether the end of everything that is read has been seen."""
        return not self._unread

    def poll(self, timeout: float) -> Message | None:
        """The camera's next message; None where none came for ``timeout`` seconds, and now and then before."""
        message = self._consumer.poll(timeout)
        if message is None:
            return None
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._unread.discard(message.partition() or 0)
            elif error.fatal() or error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
                raise KafkaException(error)
            else:
                log.warning("reading %s: %s", self._topic, error.str())  # the client tries again
            return None
        if message.key() != self._key:
            return None
        if not self._found:
            self._found = True
            self._narrow(message)
        return message

    def _assign(self, from_beginning: bool) -> set[int]:
        # All topics: asking for one by name lets some brokers create it.
        found = self._consumer.list_topics(timeout=KAFKA_TIMEOUT).topics.get(self._topic)
        if found is None:
            raise RecordError(f"there is no topic {self._topic}; `sfumato topics` creates it")
        places = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in found.partitions]
        if not from_beginning:  # asked for now rather than left to the client, so that "now" is now
            for place in places:
                place.offset = self._consumer.get_watermark_offsets(place, timeout=KAFKA_TIMEOUT)[1]
        self._consumer.assign(places)
        log.info("reading %s, %d partitions", self._topic, len(places))
        return set(found.partitions)

    def _narrow(self, message: Message) -> None:
        partition, offset = message.partition() or 0, message.offset() or 0
        self._consumer.assign([TopicPartition(self._topic, partition, offset + 1)])
        self._unread = {partition}


class Pictures:
    """Decodes messages, in their order, and leaves out what came before."""

    def __init__(self, max_pixels: int) -> None:
        self.duplicates = 0
        """Pictures seen before, or of an older epoch than one seen."""
        self.undecodable = 0
        """Messages without a picture: damaged, or H.264 after a missing or damaged unit up to the next keyframe."""
        self._max_pixels = max_pixels
        self._seen = Seen()
        self._joined = False
        self._runs: OrderedDict[str, UnitDecoder[AnonymizedFrame]] = OrderedDict()

    def decode(self, message: Message) -> Iterator[tuple[AnonymizedFrame, av.VideoFrame]]:
        """The new pictures that this message completes."""
        try:
            frame = parse(message)
            yield from self._new(self._decode(frame))
        except UndecodableError:
            self.undecodable += self._joined  # those before the first keyframe are none of ours
        except (EnvelopeError, ImageError):
            self.undecodable += 1

    def flush(self) -> Iterator[tuple[AnonymizedFrame, av.VideoFrame]]:
        """What the decoders have held back."""
        for decoder in self._runs.values():
            yield from self._new(decoder.flush())

    def _decode(self, frame: AnonymizedFrame) -> list[tuple[AnonymizedFrame, av.VideoFrame]]:
        if frame.unit is None:
            image = images.decode(frame.payload, frame.content_type, max_pixels=self._max_pixels)
            return [(frame, av.VideoFrame.from_ndarray(image, format="bgr24"))]
        before: list[tuple[AnonymizedFrame, av.VideoFrame]] = []
        if frame.unit.stream not in self._runs:
            self._runs[frame.unit.stream] = UnitDecoder()
            if len(self._runs) > RUNS:
                before = self._runs.popitem(last=False)[1].flush()
        self._runs.move_to_end(frame.unit.stream)
        return before + self._runs[frame.unit.stream].decode(frame, frame)

    def _new(
        self, pictures: list[tuple[AnonymizedFrame, av.VideoFrame]]
    ) -> Iterator[tuple[AnonymizedFrame, av.VideoFrame]]:
        for frame, picture in pictures:
            self._joined = True
            if self._seen.add(frame.id):
                yield frame, picture
            else:
                self.duplicates += 1


class Recorder:
    """One recording: messages in, a file out."""

    def __init__(self, settings: Settings, film: Film, seconds: float | None) -> None:
        self._pictures = Pictures(settings.max_pixels)
        self._timeline = Timeline()
        self._film = film
        self._seconds = seconds
        self.full = False
        """Whether the film is as long as it shall be."""

    def take(self, message: Message) -> None:
        for frame, picture in self._pictures.decode(message):
            self._add(frame, picture)

    def finish(self) -> None:
        for frame, picture in self._pictures.flush():
            self._add(frame, picture)
        if self._film.frames:
            self._film.finish()

    def summary(self) -> dict[str, Any]:
        width, height = self._film.size
        return {
            "frames": self._film.frames,
            "duplicates": self._pictures.duplicates,
            "undecodable": self._pictures.undecodable,
            "seconds": round(self._timeline.seconds, 3),
            "width": width,
            "height": height,
        }

    def _add(self, frame: AnonymizedFrame, picture: av.VideoFrame) -> None:
        at = self._timeline.place(frame)
        self.full = self.full or (self._seconds is not None and at >= self._seconds)
        if not self.full:
            self._film.add(picture, at)


def record(
    settings: Settings,
    camera: str,
    out: Path,
    stopping: threading.Event,
    *,
    from_beginning: bool = False,
    seconds: float | None = None,
    until_end: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Record until ``stopping`` is set, or for ``seconds``, or ``until_end`` of what is in the topic.

    Returns the summary; :class:`RecordError` where there is nothing to record or the file cannot be written.
    """
    if out.exists() and not force:
        raise RecordError(f"{out} exists; --force overwrites it")
    if not os.access(out.parent, os.W_OK):
        raise RecordError(f"{out.parent} is not a folder that can be written to")
    with CameraMessages(settings, camera, from_beginning=from_beginning) as messages, Film(out) as film:
        recorder = Recorder(settings, film, seconds)
        try:
            _read(messages, recorder, film, stopping, None if from_beginning else seconds, until_end)
            recorder.finish()
        except (FFmpegError, OSError) as error:
            raise RecordError(f"{out} cannot be written: {error}") from None
        if not film.frames:
            where = "in the topic" if until_end else "while it was recorded"
            raise RecordError(f"no frame of camera {camera} {where}; nothing was written")
    return {"camera": camera, "file": str(out), **recorder.summary()}


def _read(
    messages: CameraMessages,
    recorder: Recorder,
    film: Film,
    stopping: threading.Event,
    live_seconds: float | None,
    until_end: bool,
) -> None:
    """``live_seconds``: by the clock, from the first picture on, or from now where none comes."""
    began, had = time.monotonic(), 0
    while not (stopping.is_set() or recorder.full or (until_end and messages.at_end)):
        message = messages.poll(0.2)
        if message is not None:
            recorder.take(message)
        if film.frames and not had:
            began, had = time.monotonic(), film.frames
        if live_seconds is not None and time.monotonic() - began >= live_seconds:
            return
