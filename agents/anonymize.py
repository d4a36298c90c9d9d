"""The anonymizer: raw frames in, anonymized frames and audit events out.

Delivery guarantee: at least once. An event is acknowledged, in offset order, only after the broker has
acknowledged its output and its audit event, and no later frame needs it any more (``agents/acknowledge.py``);
a kill replays what was not. The agent never raises (Faust would lose the batch and what is buffered behind it):
a frame ends in an outcome, or the process ends. Frames are opened (``agents/footage/sealing.py``) as they are read;
where the key store does not answer the process ends too, since its frames would be lost otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sfumato.agents import exits, metrics, provision, retention, transport
from sfumato.agents.acknowledge import Acknowledger
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Opener
from sfumato.agents.policies import PolicyStore
from sfumato.agents.policy_files import FloorError, read_floor
from sfumato.agents.produce import Producer, deliver
from sfumato.agents.reach import Reach
from sfumato.agents.settings import Settings
from sfumato.agents.suspensions import SuspensionStore
from sfumato.agents.watch import Watchdog
from sfumato.models import detectors, encoders, weights
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.audit import AuditEvent, Origin, Timings
from sfumato.schemas.cloudevent import EnvelopeError, Headers
from sfumato.schemas.frame import AnonymizedFrame, Message, RawFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED, FRAMES_RAW, MAX_MESSAGE_BYTES, Topic

log = logging.getLogger(__name__)

UNMENDED = (
    FloorError,
    detectors.DetectorError,
    weights.WeightError,
    encoders.EncoderError,
    stores.KeySettingsError,
    retention.RetentionError,
)
"""What a restart does not mend."""
ENVELOPE_BYTES = 512 * 1024
"""Room left in a message for headers, in bytes."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of ``frames.raw`` and where it was read."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    origin: Origin


@dataclass(frozen=True, slots=True)
class Ending:
    """What one record came to: its audit event, and the frame to publish unless it was dropped."""

    audit: AuditEvent
    output: AnonymizedFrame | None

    def messages(self) -> list[tuple[Topic, Message]]:
        audit = (AUDIT, self.audit.to_message())
        return [audit] if self.output is None else [(FRAMES_ANONYMIZED, self.output.to_message()), audit]


class Anonymizer:
    """Records to endings. Pure but for the clock, so that tests need no broker."""

    def __init__(
        self, engine: Engine, policy_of: Callable[[RawFrame], Policy | NoPolicy], opener: Opener | None = None
    ) -> None:
        """``opener`` None: the payloads of frames are pictures and units as they stand."""
        self._engine = engine
        self._policy_of = policy_of
        self._opener = opener

    def read(self, record: Record) -> Task | Ending:
        """The task that a record sets, or its ending where its envelope cannot be read or its value not be opened.
        KeyStoreError where that cannot be told now."""
        try:
            frame = RawFrame.from_message(record.key, record.value, record.headers)
        except EnvelopeError as error:
            return Ending(_unreadable(record, error), None)
        try:
            frame = self._opener.open(frame) if self._opener else frame
        except stores.UnopenedError as error:
            return Ending(_unopened(record, frame, error), None)
        return Task(frame, self._policy_of(frame), record.origin)

    def anonymize(self, tasks: Sequence[Task]) -> list[tuple[Task, Ending]]:
        """The tasks that these, and those before them, bring to their end; each camera's in presentation order."""
        return [(task, self._end(task)) for task in self._engine.anonymize(tasks)]

    def due(self) -> float | None:
        """When a frame that waits for later ones is to end though none comes (monotonic, seconds); None: none waits."""
        return self._engine.due()

    def close_idle(self, seconds: float) -> list[tuple[Task, Ending]]:
        """Bring to their end the tasks of cameras that have been silent for so long."""
        return [(task, self._end(task)) for task in self._engine.close_idle(seconds)]

    def refuse(self, tasks: Iterable[Task], reason: Reason) -> list[Ending]:
        """End tasks without detection: fully masked, or dropped where not even the size can be read."""
        endings = []
        for task in tasks:
            self._engine.refuse(task, reason)
            endings.append(self._end(task))
        return endings

    def _end(self, task: Task) -> Ending:
        frame = task.frame
        if task.outcome is None or task.origin is None:
            raise RuntimeError(f"{frame.id} has no outcome")  # the process ends; nothing is acknowledged
        audit = AuditEvent(
            id=str(frame.id),
            origin=task.origin,
            camera=frame.id.camera,
            epoch=frame.id.epoch,
            sequence=frame.id.sequence,
            outcome=task.outcome,
            reason=task.reason,
            detail=task.detail,
            captured_at=frame.captured_at,
            time_source=frame.time_source,
            audited_at=datetime.now(UTC),
            policy=_policy_name(task),
            policy_version=task.policy.version,
            policy_sha256=task.policy.sha256,
            schedule=task.policy.schedule,
            detectors=task.detectors,
            detections=task.detections,
            spared=task.spared,
            width=task.width,
            height=task.height,
            input_bytes=len(frame.payload),
            input_sha256=task.input_sha256(),
            output_bytes=None if task.output is None else len(task.output),
            output_sha256=task.output_sha256(),
            timings_ms=Timings(**{stage: round(ms, 3) for stage, ms in task.timings.items()}),
        )
        return Ending(audit, _output(task))


def _output(task: Task) -> AnonymizedFrame | None:
    if task.output is None or task.outcome is None:
        return None
    return AnonymizedFrame(
        id=task.frame.id,
        captured_at=task.frame.captured_at,
        time_source=task.frame.time_source,
        width=task.width or 0,
        height=task.height or 0,
        content_type=task.content_type,
        outcome=task.outcome,
        reason=task.reason,
        policy=_policy_name(task),
        policy_version=task.policy.version,
        detections=task.detections,
        payload=task.output,
        unit=task.unit,
    )


def _policy_name(task: Task) -> str | None:
    """The pattern under which the policy lies; None where it is the camera's own, or there is none."""
    return None if task.policy.camera == task.frame.id.camera else task.policy.camera


def _unreadable(record: Record, error: EnvelopeError) -> AuditEvent:
    value = record.value or b""
    origin = record.origin
    return AuditEvent(
        id=f"{origin.topic}/{origin.partition}/{origin.offset}",
        origin=origin,
        outcome=Outcome.DROPPED,
        reason=Reason.INVALID_ENVELOPE,
        detail=str(error),
        audited_at=datetime.now(UTC),
        input_bytes=len(value),
        input_sha256=hashlib.sha256(value).hexdigest(),
    )


def _unopened(record: Record, frame: RawFrame, error: stores.UnopenedError) -> AuditEvent:
    """The identity is the one that the headers claim: it may be an honest frame's whose value was damaged."""
    return AuditEvent(
        id=str(frame.id),
        origin=record.origin,
        camera=frame.id.camera,
        epoch=frame.id.epoch,
        sequence=frame.id.sequence,
        outcome=Outcome.DROPPED,
        reason=error.reason,
        detail=str(error),
        captured_at=frame.captured_at,
        time_source=frame.time_source,
        audited_at=datetime.now(UTC),
        input_bytes=len(frame.payload),
        input_sha256=hashlib.sha256(frame.payload).hexdigest(),
    )


class Worker:
    """Moves batches from Faust's stream to the broker: one batch is computed while the one before is delivered."""

    def __init__(
        self,
        settings: Settings,
        anonymizer: Anonymizer,
        producer: Producer,
        polled: Callable[[], float | None] = time.monotonic,
    ) -> None:
        """``polled``: as of :class:`Reach`."""
        self._reach = Reach(polled, settings.camera_idle / 2)
        self.acknowledger = Acknowledger(settings.camera_idle, settings.gop_hold, lambda: self._reach.since)
        self._settings = settings
        self._anonymizer = anonymizer
        self._producer = producer
        self._compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._computing = asyncio.Lock()
        self._inside: dict[Task, None] = {}
        """What the engine has been given and has not brought to its end, in the order it was given."""
        self._due: float | None = None
        """When a frame that waits in the engine is to be asked for, though no other comes (monotonic, seconds)."""
        self._sooner = asyncio.Event()
        """Set where that has become earlier."""
        self._ended: asyncio.Queue[tuple[list[Ending], bool]] = asyncio.Queue(maxsize=1)

    async def run(self, stream: Any) -> None:
        delivering, *computing = [
            asyncio.create_task(service)
            for service in (self._deliver_all(stream), self._close_idle(), self._release_due())
        ]
        for service in (delivering, *computing):
            service.add_done_callback(exits.restart_on_failure)
        try:
            async for events in stream.noack_take(self._settings.batch_size, within=self._settings.batch_wait):
                metrics.BATCH_SIZE.observe(len(events))
                tasks, unreadable = self._read(events)
                await self._compute(partial(self._anonymizer.anonymize, tasks), unreadable)
        finally:
            # What was being computed is gone and will be read again: no later frame may come out before it.
            for service in computing:
                service.cancel()

    def _read(self, events: Sequence[Any]) -> tuple[list[Task], list[Ending]]:
        self._reach.hear()
        tasks, unreadable = [], []
        for event in events:
            record = _record(event)
            event.message.value = event.value = None  # an event may be held for long
            read = self._anonymizer.read(record)
            if isinstance(read, Task):
                tasks.append(read)
                self.acknowledger.take(event, record.origin, read)
            else:
                unreadable.append(read)
                self.acknowledger.take(event, record.origin, None)
        self._inside.update(dict.fromkeys(tasks))
        return tasks, unreadable

    async def _close_idle(self) -> None:
        """Look after cameras that fell silent: what their decoders hold comes out, and they hold back nothing. A broker
        out of reach silences all: to close their decoders would drop what comes next of their groups of pictures, and
        whoever reads it again would publish it behind later frames."""
        idle = self._settings.camera_idle
        while True:
            await asyncio.sleep(min(1.0, idle / 4))
            if self._reach.lasts() >= idle:
                await self._compute(partial(self._anonymizer.close_idle, idle), [])

    async def _release_due(self) -> None:
        """Look after frames that wait for later ones, where none comes in time."""
        while True:
            self._sooner.clear()
            left = None if self._due is None else max(0.0, self._due - time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sooner.wait(), left)
                continue
            await self._compute(partial(self._anonymizer.anonymize, []), [])

    async def _compute(self, work: Callable[[], list[tuple[Task, Ending]]], endings: list[Ending]) -> None:
        """Off the event loop, in one thread, so that batches keep their order."""
        async with self._computing:
            computing = asyncio.get_running_loop().run_in_executor(self._compute_thread, work)
            done, _ = await asyncio.wait({computing}, timeout=self._settings.detector_timeout)
            if done:
                for task, ending in computing.result():
                    self._inside.pop(task, None)
                    endings.append(ending)
                self._expect(self._anonymizer.due())
            else:
                log.critical("no outcome within %g s: fully masked, restarting", self._settings.detector_timeout)
                left = list(self._inside)
                endings += await asyncio.to_thread(self._anonymizer.refuse, left, Reason.DETECTOR_TIMEOUT)
            await self._ended.put((endings, not done))

    def _expect(self, due: float | None) -> None:
        sooner = due is not None and (self._due is None or due < self._due)
        self._due = due
        if sooner:
            self._sooner.set()

    async def _deliver_all(self, stream: Any) -> None:
        while True:
            endings, timed_out = await self._ended.get()
            await deliver(self._producer, [message for ending in endings for message in ending.messages()])
            for ending in endings:
                self.acknowledger.end(ending.audit.origin)
                metrics.count(ending.audit)
            if timed_out:
                self.acknowledger.abandon_gops()
            for event in self.acknowledger.releasable():
                await stream.ack(event)
            metrics.HELD.set(self.acknowledger.held)
            if timed_out:
                await stream.app.consumer.commit()
                exits.restart("a detection hung")


def _record(event: Any) -> Record:
    message = event.message
    origin = Origin(topic=message.topic, partition=message.partition, offset=message.offset)
    return Record(message.key, message.value, list(message.headers or ()), origin)


def build(settings: Settings, policies: PolicyStore, suspensions: SuspensionStore) -> Anonymizer:
    """The anonymizer of these settings; :data:`UNMENDED` errors or KeyStoreError where it cannot be made."""
    options = settings.detector_options()
    ensemble = Ensemble([detectors.make(name, options) for name in settings.detector_names()])
    encoders.check(settings.h264_encoder)
    limits = Limits(
        max_pixels=settings.max_pixels,
        quality=settings.jpeg_quality,
        max_bytes=MAX_MESSAGE_BYTES - ENVELOPE_BYTES,
        decoders=settings.decoders,
        h264_encoder=settings.h264_encoder,
        held_bytes=settings.held_bytes,
    )
    in_force = suspensions.over(policies.get)
    engine = Engine(ensemble, limits, threads=settings.codec_threads)
    opener = Opener(stores.make(settings), required=settings.raw_sealing == "on")
    return Anonymizer(engine, lambda frame: in_force(frame.id.camera, frame.captured_at), opener)


async def run(app: Any, stream: Any, settings: Settings) -> None:
    """The Faust agent's body. Does not return and does not raise: it leaves the process instead."""
    with exits.starting(*UNMENDED):
        policies, suspensions = PolicyStore(settings, read_floor(settings)), SuspensionStore(settings)
        await asyncio.to_thread(policies.start)
        await asyncio.to_thread(suspensions.start)
        await asyncio.to_thread(provision.check, settings, (FRAMES_RAW,))
        retention.watch(settings, policies)
        anonymizer = await asyncio.to_thread(build, settings, policies, suspensions)
        metrics.serve(settings)
        Watchdog(app, settings, exits.restart).start()
    with exits.working():
        producer = Producer(settings, client_id="sfumato-anonymize")
        worker = Worker(settings, anonymizer, producer, partial(transport.polled, app))
        app.on_partitions_revoked.connect(lambda *_, **__: worker.acknowledger.clear(), weak=False)
        await worker.run(stream)
