"""The ingestor: cameras in, ``frames.raw`` out, and one record per epoch of what was sent and dropped.

Delivery guarantee: a frame gets its sequence when it is handed to the producer, which retries until the broker
has it (idempotent, in order per camera). What cannot be accepted before that is dropped, counted by reason in
the epoch's record, and leaves no gap; of access units also all that cannot be decoded without it. So it is with frames
for which the key store gives no key: nothing is sent in the clear instead. Files read as fast as possible wait instead.
Without a key for each camera the ingestor does not start. What the broker refuses for good (its topic is gone, access
was withdrawn) ends the process. A killed ingestor loses what the broker had not acknowledged; its next run begins a new
epoch, newer than those before whatever the clock says (``agents/epochs.py``).
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

from confluent_kafka import KafkaError, KafkaException

from sfumato.agents import epochs, metrics, provision
from sfumato.agents.admission import Admission
from sfumato.agents.cameras import Camera
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Sealer
from sfumato.agents.footage.shredding import Shredder
from sfumato.agents.pictures import Loss, Picture
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.sources import Context, SourceError, open_source, redact, waits
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Reason
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW, MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 4096
"""Room for a raw frame's headers in a message, in bytes."""
USUAL_ENVELOPE_BYTES = 1024
"""What a message costs beside its payload while it waits: an access unit may be smaller than that."""
SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
PROGRESS_INTERVAL = 5.0
STOP_TIMEOUT = 5.0
"""Seconds that the readers get to stop; one that hangs in a dead camera is left behind."""
DRAIN_TIMEOUT = 8.0
"""Seconds that the broker gets, after that, to acknowledge the last frames; then 4 for the last records."""


class Outlet:
    """What the cameras share: the producer, the seal, the room for bytes in flight, and the end."""

    def __init__(self, settings: Settings, cameras: int, sealer: Sealer | None) -> None:
        """``sealer`` None: frames are sent in the clear."""
        self.sealer = sealer
        self.producer = Producer(settings, client_id="sfumato-ingest")
        self.admission = Admission(settings.queue_bytes, cameras)
        self.stopping = threading.Event()
        self.failed = False

    def fail(self, problem: str) -> None:
        """Kafka refuses for good: end the process, so that a supervisor starts it with new epochs."""
        if not self.failed:
            log.error("ending: %s", problem)
        self.failed = True
        self.stopping.set()


class Feed(threading.Thread):
    """One camera: reads its source, opens it again when it breaks, hands frames to the producer."""

    def __init__(self, camera: Camera, outlet: Outlet, newest: int | None = None) -> None:
        """``newest``: the camera's newest epoch so far, where it is known."""
        super().__init__(name=f"camera-{camera.id}", daemon=True)
        self.camera = camera
        self.epoch = epochs.begin(newest)
        self.ended = False
        self.clean = False
        """Whether the epoch ended with everything acknowledged."""
        self._outlet = outlet
        self._context = Context(camera, outlet.stopping, metrics.SKIPPED.labels(camera.id).inc)
        self._lock = threading.RLock()  # sending and ending exclude each other
        self._next_sequence = 0
        self._last_acknowledged: int | None = None
        self._dropped: Counter[Reason] = Counter()
        self._key_problem = ""
        """What the key store said last, as long as it gives no key: logged once."""
        for counter in (metrics.INGESTED, metrics.INGESTED_BYTES, metrics.RECONNECTS, metrics.TRANSCODED):
            counter.labels(camera.id)  # a rate needs the zero before the first count

    def run(self) -> None:
        try:
            self.report(EpochState.BEGUN)
            self._read_until_ended()
        except Exception as error:  # noqa: BLE001 - a camera must not fall silent
            self._outlet.fail(f"camera {self.camera.id}: {type(error).__name__}")
        # A camera that has ended by itself waits for the broker as long as that takes.
        while not self._outlet.stopping.is_set():
            if self._outlet.admission.drained(self.camera.id, 0.2):
                self.end(0)
                return

    def report(self, state: EpochState) -> bool:
        """Publish an epoch record; whether the producer took it."""
        with self._lock:
            record = EpochRecord(
                camera=self.camera.id,
                epoch=self.epoch,
                state=state,
                at=datetime.now(UTC),
                last_sequence=self._last_acknowledged,
                dropped=dict(self._dropped),
            )
            try:
                return self._outlet.producer.try_send(EPOCHS, record.to_message(), self._reported)
            except KafkaException as error:
                self._reported(error.args[0])
                return False

    def end(self, timeout: float) -> None:
        """End the epoch, once: nothing is sent after this. Waits up to ``timeout`` seconds for the broker."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            delivered = self._outlet.admission.drained(self.camera.id, timeout) and not self._outlet.failed
            self.clean = delivered and self.report(EpochState.ENDED)
            if not self.clean:
                log.error("camera %s: frames were not delivered; its epoch stays open", self.camera.id)

    def _read_until_ended(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._outlet.stopping.is_set():
            before = self._next_sequence
            try:
                for item in open_source(self._context):
                    self._take(item)
                return  # a file or a folder that has ended
            except SourceError as error:
                problem = str(error)
            except KafkaException as error:
                self._outlet.fail(f"Kafka refuses frames of camera {self.camera.id}: {error.args[0].str()}")
                return
            except Exception as error:  # noqa: BLE001 - whatever a demuxer raises: the camera is opened again
                problem = type(error).__name__  # its text may quote the URL
            metrics.RECONNECTS.labels(self.camera.id).inc()
            pause = SHORTEST_PAUSE if self._next_sequence > before else min(pause * 2, LONGEST_PAUSE)
            wait = pause * random.uniform(0.5, 1.0)
            log.warning("camera %s (%s): %s; again in %.1f s", self.camera.id, redact(self.camera.url), problem, wait)
            self._outlet.stopping.wait(wait)

    def _take(self, item: Picture | Loss) -> None:
        if isinstance(item, Loss):
            self._drop(item.reason)
        elif len(item.payload) > MAX_MESSAGE_BYTES - ENVELOPE_BYTES:
            self._refuse(item, Reason.TOO_LARGE)
        elif (reason := self._send(item)) is not None:
            self._refuse(item, reason)

    def _refuse(self, picture: Picture, reason: Reason) -> None:
        self._drop(reason)
        if picture.needed:
            self._context.gate.close(reason)

    def _send(self, picture: Picture) -> Reason | None:
        """Why the frame was not accepted; waits for room and key where the source can. KafkaException where there
        never will be room."""
        size = len(picture.payload) + USUAL_ENVELOPE_BYTES
        patient = waits(self.camera) and self._outlet.admission.ever(size)
        while True:
            try:
                if self._try_send(picture, size):
                    self._key_problem = ""
                    return None
                reason = Reason.QUEUE_FULL
            except stores.KeyGoneError as error:
                return error.reason
            except stores.KeyStoreError as error:
                self._tell(str(error))
                reason = Reason.KEY_UNAVAILABLE
            if not patient or self._outlet.stopping.is_set():
                return reason
            self._outlet.admission.wait_for_room(0.2)

    def _tell(self, problem: str) -> None:
        if problem != self._key_problem:
            log.error("camera %s: frames cannot be sealed and are not sent: %s", self.camera.id, problem)
        self._key_problem = problem

    def _try_send(self, picture: Picture, size: int) -> bool:
        """Whether the frame was accepted, and so got a sequence. KeyGoneError, KeyStoreError: it cannot be sealed."""
        with self._lock:
            if self.ended or not self._outlet.admission.admit(self.camera.id, size):
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
                unit=picture.unit,
            )
            accepted = False
            try:
                sealed = self._outlet.sealer.seal(frame) if self._outlet.sealer else frame
                accepted = self._outlet.producer.try_send(
                    FRAMES_RAW, sealed.to_message(), lambda error: self._delivered(sequence, size, error)
                )
            finally:
                if not accepted:
                    self._outlet.admission.release(self.camera.id, size)
            if accepted:
                self._next_sequence += 1
                self._count(picture)
            return accepted

    def _count(self, picture: Picture) -> None:
        metrics.INGESTED.labels(self.camera.id).inc()
        metrics.INGESTED_BYTES.labels(self.camera.id).inc(len(picture.payload))
        if picture.transcoded:
            metrics.TRANSCODED.labels(self.camera.id).inc()

    def _delivered(self, sequence: int, size: int, error: KafkaError | None) -> None:
        if error is None:
            self._last_acknowledged = sequence
        else:
            self._outlet.fail(f"Kafka refused frame {sequence} of camera {self.camera.id}: {error.str()}")
        self._outlet.admission.release(self.camera.id, size)

    def _reported(self, error: KafkaError | None) -> None:
        if error is not None:
            self._outlet.fail(f"Kafka refused an epoch record of camera {self.camera.id}: {error.str()}")

    def _drop(self, reason: Reason) -> None:
        with self._lock:
            if not self.ended:  # what comes after the end is not ingested
                self._dropped[reason] += 1
                metrics.INGEST_DROPPED.labels(self.camera.id, reason).inc()


def ingest(settings: Settings, cameras: Sequence[Camera]) -> int:
    """Read all cameras until they end or SIGTERM; the exit status: 0 if every frame accepted was delivered."""
    store = stores.make(settings)
    provision.check(settings, (FRAMES_RAW, EPOCHS))
    before = epochs.newest(settings, [camera.id for camera in cameras])
    outlet = Outlet(settings, len(cameras), _sealer(settings, store, cameras))
    metrics.serve(settings)
    metrics.OUTSTANDING.set_function(lambda: outlet.admission.total)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: outlet.stopping.set())
    Shredder(store, settings, outlet.stopping).start()
    feeds = [Feed(camera, outlet, before.get(camera.id)) for camera in cameras]
    for feed in feeds:
        log.info("camera %s: %s, epoch %d", feed.camera.id, redact(feed.camera.url), feed.epoch)
        feed.start()
    _report_progress_until_ended(feeds, outlet)
    _end(feeds)
    left = outlet.producer.close(timeout=4)
    if left:
        log.error("%d messages were not acknowledged by the broker", left)
    return 0 if left == 0 and not outlet.failed and all(feed.clean for feed in feeds) else 1


def _sealer(settings: Settings, store: stores.KeyStore, cameras: Sequence[Camera]) -> Sealer | None:
    """The seal; None where it is switched off. KeyStoreError where a camera has no key of the hour that it is."""
    if settings.raw_sealing == "off":
        log.warning("SFUMATO_RAW_SEALING is off: raw frames lie on Kafka in the clear")
        return None
    for camera in cameras:
        store.make(camera.id, stores.hour_of(datetime.now(UTC)))
    return Sealer(store)


def _report_progress_until_ended(feeds: Sequence[Feed], outlet: Outlet) -> None:
    reported = time.monotonic()
    while not all(feed.ended for feed in feeds) and not outlet.stopping.wait(0.2):
        if time.monotonic() - reported >= PROGRESS_INTERVAL:
            reported = time.monotonic()
            for feed in feeds:
                if not feed.ended:
                    feed.report(EpochState.PROGRESS)


def _end(feeds: Sequence[Feed]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT
    for feed in feeds:
        feed.join(max(0.0, deadline - time.monotonic()))
    deadline = time.monotonic() + DRAIN_TIMEOUT
    for feed in feeds:
        feed.end(max(0.0, deadline - time.monotonic()))
