"""The one path by which people read raw pixels: frames of one camera and one window of time, opened in memory.

Nothing here is written anywhere. It has a Kafka client of its own (``sfumato-reveal``), which is the only one besides
the anonymizer's that may read ``frames.raw``, and only a request that enough people have approved leads here
(:mod:`sfumato.agents.subjects.clerk`). ``tests/test_reveal_path.py`` holds it to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sfumato.agents import messages
from sfumato.agents.connection import consumer_config
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Opener
from sfumato.agents.footage.stores import KeyGoneError, UnopenedError
from sfumato.agents.settings import Settings
from sfumato.models.task import Task
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import EnvelopeError, FrameId, format_time
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.policy import Policy
from sfumato.schemas.subject_request import READ_AFTER, READ_BEFORE
from sfumato.schemas.topics import FRAMES_RAW

CLIENT = "sfumato-reveal"
"""Client id, and the principal under ACLs."""
TIMEOUT = 15.0
"""Longest wait for the broker, in seconds."""
ATTEMPTS = 6
"""At a beginning that is early enough, each four times as far back as the one before."""


class FootageGoneError(RuntimeError):
    """The frames are no more, since ``at``: shredded or deleted."""

    def __init__(self, text: str, at: datetime) -> None:
        super().__init__(text)
        self.at = at


class Window:
    """The raw frames around one of them, which lies at ``origin``. Not thread-safe; a context manager.

    Raises :class:`FootageGoneError` where that frame is gone, KeyStoreError where its key cannot be had now, and
    KafkaException or TimeoutError where the broker does not answer.
    """

    def __init__(self, settings: Settings, frame: FrameId, origin: Origin, since: datetime, until: datetime) -> None:
        self._frame = frame
        self._origin = origin
        self._since, self._until = since, until
        self._deleted = f"the frames are deleted: {FRAMES_RAW.name} keeps them {settings.raw_retention_minutes} minutes"
        self._store = stores.make(settings)
        self._opener = Opener(self._store, required=settings.raw_sealing == "on")
        self._consumer = Consumer(
            consumer_config(settings, f"{settings.group_id}-raw")
            | {"client.id": CLIENT, "queued.max.messages.kbytes": 64 * 1024}
        )
        try:
            self._start = self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._consumer.close()
        self._store.close()

    def tasks(self, policy: Policy) -> Iterator[Task]:
        """One pass: each frame once, in order, opened; one that stays closed with its outcome."""
        seen: set[FrameId] = set()
        for message in self._messages(self._start):
            frame = self._parsed(message)
            if frame is None or frame.id in seen:
                continue
            if frame.captured_at > self._until + timedelta(seconds=READ_AFTER):
                return
            seen.add(frame.id)
            yield self._opened(frame, policy)

    def _opened(self, frame: RawFrame, policy: Policy) -> Task:
        try:
            return Task(self._opener.open(frame), policy)
        except UnopenedError as error:
            task = Task(frame, policy)
            task.mask_fully(error.reason)
            return task

    def _begin(self) -> int:
        """The offset to read from. Makes sure that the chosen frame is there and opens."""
        place = TopicPartition(self._origin.topic, self._origin.partition)
        low, high = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT)
        message = self._first(low, high)
        frame = self._parsed(message) if message is not None else None
        if message is None or frame is None or frame.id != self._frame:
            raise FootageGoneError(self._deleted, datetime.now(UTC))
        try:
            self._opener.open(frame)
        except KeyGoneError as error:
            text = f"the footage was shredded at {format_time(error.shredded_at)}"
            raise FootageGoneError(text, error.shredded_at) from None
        except UnopenedError:
            pass  # it stays grey, and the clip is refused for that
        return self._early_enough(frame, message.timestamp()[1], low)

    def _first(self, low: int, high: int) -> Message | None:
        """The message at the origin, or after it; None: there is none any more."""
        if self._origin.offset < low:
            return None
        try:
            return next(self._messages(self._origin.offset), None)
        except TimeoutError:
            if self._origin.offset < high:
                raise
            return None  # beyond the end, where a broker need not answer: the topic was made anew

    def _early_enough(self, frame: RawFrame, written_ms: int, low: int) -> int:
        """From where frames are older than the window by :data:`READ_BEFORE`. Kafka's clock and the camera's may
        differ, and a file is read faster than it was filmed: so it is looked at, and gone back further where need be.
        """
        lead = (frame.captured_at - self._since).total_seconds() + READ_BEFORE
        wanted = frame.captured_at - timedelta(seconds=lead - READ_BEFORE / 2)
        offset = self._origin.offset
        for attempt in range(ATTEMPTS):
            moment = max(0, written_ms - int(lead * 4**attempt * 1000))
            place = TopicPartition(self._origin.topic, self._origin.partition, moment)
            (found,) = self._consumer.offsets_for_times([place], timeout=TIMEOUT)
            offset = max(low, min(self._origin.offset, found.offset)) if found.offset >= 0 else low
            first = next((f for m in self._messages(offset) if (f := self._parsed(m)) is not None), None)
            if offset == low or (first is not None and first.captured_at <= wanted):
                break
        return offset

    def _messages(self, offset: int) -> Iterator[Message]:
        """What lies there and after it, up to the end as it then is."""
        place = TopicPartition(self._origin.topic, self._origin.partition, offset)
        self._consumer.assign([place])
        deadline = time.monotonic() + TIMEOUT
        while True:
            message = self._consumer.poll(0.2)
            if message is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{FRAMES_RAW.name} was not read within {TIMEOUT:g} s; is the broker up?")
                continue
            deadline = time.monotonic() + TIMEOUT
            if (error := message.error()) is None:
                if (message.offset() or 0) >= offset:
                    yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            elif error.fatal() or error.code() in REFUSED:
                raise KafkaException(error)

    def _parsed(self, message: Message) -> RawFrame | None:
        """A frame of the camera; None: another's, or none."""
        key = messages.key(message)
        if key != self._frame.camera.encode():
            return None
        try:
            return RawFrame.from_message(key, messages.value(message), messages.headers(message))
        except EnvelopeError:
            return None


REFUSED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)


def source(window: Window, policy: Policy) -> Callable[[], Iterator[Task]]:
    """The window's frames, as often as asked for."""
    return lambda: window.tasks(policy)
