"""The ingestor: cameras in, ``frames.raw`` out, and one record per epoch of what was sent and dropped.

Delivery guarantee: a frame gets its sequence when it is handed to the producer, which retries until the broker
has it (idempotent, in order per camera). What cannot be accepted before that is dropped, counted by reason in
the epoch's record, and leaves no gap. A killed ingestor loses what the broker had not acknowledged; its next
run begins a new epoch.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from confluent_kafka import KafkaError

from sfumato.agents import metrics, provision
from sfumato.agents.cameras import Camera
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.sources import Context, Loss, Picture, SourceError, open_source, redact
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Reason
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW, MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 4096
"""Room for a raw frame's headers in a message, in bytes."""
SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
PROGRESS_INTERVAL = 5.0
DRAIN_TIMEOUT = 15.0
"""Seconds that an ending camera waits for the broker to acknowledge its last frames."""


class Admission:
    """Bounds the bytes that wait for the broker, fairly. Thread-safe.

    While there is room everyone is let in. When it is used up, a camera is let in only within its fair share:
    so the newest frames of the noisiest cameras are refused, and no camera is held up by another. At most twice
    the limit is ever outstanding.
    """

    def __init__(self, limit: int, cameras: int) -> None:
        self._limit = limit
        self._share = limit // max(1, cameras)
        self._outstanding: Counter[str] = Counter()
        self._total = 0
        self._changed = threading.Condition()

    def admit(self, camera: str, size: int) -> bool:
        with self._changed:
            own = self._outstanding[camera] + size
            if self._total + size > self._limit and own > self._share:
                return False
            self._outstanding[camera] = own
            self._total += size
            return True

    def release(self, camera: str, size: int) -> None:
        with self._changed:
            self._outstanding[camera] -= size
            self._total -= size
            self._changed.notify_all()

    def drained(self, camera: str, timeout: float) -> bool:
        """Wait until nothing of the camera is outstanding; False at the timeout, in seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._outstanding[camera] == 0, timeout)

    @property
    def total(self) -> int:
        return self._total


class Feed(threading.Thread):
    """One camera: reads its source, opens it again when it breaks, hands frames to the producer."""

    def __init__(self, camera: Camera, producer: Producer, admission: Admission, stopping: threading.Event) -> None:
        super().__init__(name=f"camera-{camera.id}", daemon=True)
        self.camera = camera
        self.epoch = int(time.time() * 1000)
        self.clean = False
        """Whether the epoch ended with everything acknowledged."""
        self._producer = producer
        self._admission = admission
        self._stopping = stopping
        self._context = Context(camera, stopping)
        self._next_sequence = 0
        self._last_acknowledged: int | None = None
        self._failed = 0
        self._dropped: Counter[Reason] = Counter()

    def run(self) -> None:
        self.report(EpochState.BEGUN)
        try:
            self._read_until_ended()
        finally:
            self.clean = self._admission.drained(self.camera.id, DRAIN_TIMEOUT) and self._failed == 0
            if self.clean:
                self.report(EpochState.ENDED)
            else:
                log.error("camera %s: frames were not delivered; its epoch stays open", self.camera.id)

    def report(self, state: EpochState) -> None:
        """Publish an epoch record."""
        record = EpochRecord(
            camera=self.camera.id,
            epoch=self.epoch,
            state=state,
            at=datetime.now(UTC),
            last_sequence=self._last_acknowledged,
            dropped=dict(self._dropped),
        )
        self._producer.try_send(EPOCHS, record.to_message(), lambda error: None)

    def _read_until_ended(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._stopping.is_set():
            before = self._next_sequence
            try:
                for item in open_source(self._context):
                    self._take(item)
                return  # a file or a folder that has ended
            except SourceError as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - whatever a demuxer raises: the camera is opened again
                problem = type(error).__name__
            metrics.RECONNECTS.labels(self.camera.id).inc()
            pause = SHORTEST_PAUSE if self._next_sequence > before else min(pause * 2, LONGEST_PAUSE)
            wait = pause * random.uniform(0.5, 1.0)
            log.warning("camera %s (%s): %s; again in %.1f s", self.camera.id, redact(self.camera.url), problem, wait)
            self._stopping.wait(wait)

    def _take(self, item: Picture | Loss) -> None:
        metrics.SKIPPED.labels(self.camera.id).inc(self._context.cap.take_skipped())
        if isinstance(item, Loss):
            self._drop(item.reason)
        elif len(item.payload) > MAX_MESSAGE_BYTES - ENVELOPE_BYTES:
            self._drop(Reason.TOO_LARGE)
        elif not self._send(item):
            self._drop(Reason.QUEUE_FULL)

    def _send(self, picture: Picture) -> bool:
        """Whether the frame was accepted, and so got a sequence."""
        size = len(picture.payload)
        if not self._admission.admit(self.camera.id, size):
            return False
        sequence = self._next_sequence
        frame = RawFrame(
            id=FrameId(self.camera.id, self.epoch, sequence),
            captured_at=picture.captured_at,
            time_source=picture.time_source,
            width=picture.width,
            height=picture.height,
            content_type=picture.content_type,
            payload=picture.payload,
        )
        if not self._producer.try_send(FRAMES_RAW, frame.to_message(), lambda e: self._delivered(sequence, size, e)):
            self._admission.release(self.camera.id, size)
            return False
        self._next_sequence += 1
        metrics.INGESTED.labels(self.camera.id).inc()
        metrics.INGESTED_BYTES.labels(self.camera.id).inc(size)
        metrics.OUTSTANDING.set(self._admission.total)
        return True

    def _delivered(self, sequence: int, size: int, error: KafkaError | None) -> None:
        if error is None:
            self._last_acknowledged = sequence
        else:  # only what no retry mends: the topic is gone, access was withdrawn
            self._failed += 1
            log.error("camera %s: frame %d was refused by the broker: %s", self.camera.id, sequence, error.str())
        self._admission.release(self.camera.id, size)
        metrics.OUTSTANDING.set(self._admission.total)

    def _drop(self, reason: Reason) -> None:
        self._dropped[reason] += 1
        metrics.INGEST_DROPPED.labels(self.camera.id, reason).inc()


def ingest(settings: Settings, cameras: Sequence[Camera]) -> int:
    """Read all cameras until they end or SIGTERM; the exit status: 0 if every frame accepted was delivered."""
    provision.check(settings, (FRAMES_RAW, EPOCHS))
    metrics.serve(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    producer = Producer(settings, client_id="sfumato-ingest")
    admission = Admission(settings.queue_bytes, len(cameras))
    feeds = [Feed(camera, producer, admission, stopping) for camera in cameras]
    for feed in feeds:
        log.info("camera %s: %s, epoch %d", feed.camera.id, redact(feed.camera.url), feed.epoch)
        feed.start()
    _report_progress_while_alive(feeds)
    left = producer.close(timeout=5)
    if left:
        log.error("%d messages were not acknowledged by the broker", left)
    return 0 if left == 0 and all(feed.clean for feed in feeds) else 1


def _report_progress_while_alive(feeds: Sequence[Feed]) -> None:
    reported = time.monotonic()
    while alive := [feed for feed in feeds if feed.is_alive()]:
        alive[0].join(0.2)  # a bare join would not let the signal handler run
        if time.monotonic() - reported >= PROGRESS_INTERVAL:
            reported = time.monotonic()
            for feed in alive:
                feed.report(EpochState.PROGRESS)
