"""The anonymizer: raw frames in, anonymized frames and audit events out.

Delivery guarantee: at least once. An event is acknowledged, in offset order, only after the broker has
acknowledged its output and its audit event; a kill replays what was not. The agent never raises (Faust
would lose the batch and what is buffered behind it): a frame ends in an outcome, or the process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

from confluent_kafka import KafkaError

from sfumato.agents import metrics
from sfumato.agents.policies import PolicyStore
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.watch import Watchdog
from sfumato.models import detectors, weights
from sfumato.models.detectors import DetectorOptions
from sfumato.models.engine import Engine, Limits, NoPolicy, Task
from sfumato.schemas.audit import AuditEvent, DetectorRecord, Origin, Timings
from sfumato.schemas.cloudevent import EnvelopeError, Headers
from sfumato.schemas.frame import AnonymizedFrame, Message, RawFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED, MAX_MESSAGE_BYTES, Topic

log = logging.getLogger(__name__)

EXIT_CONFIGURATION = 78
"""Exit status for what a restart cannot mend (sysexits.h: EX_CONFIG); the supervisor then stops."""
EXIT_RESTART = 75
"""Exit status that asks the supervisor for a fresh process (sysexits.h: EX_TEMPFAIL)."""
SHUTDOWN_TIMEOUT = 10.0
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

    def __init__(self, engine: Engine, policy_of: Callable[[str], Policy | NoPolicy]) -> None:
        self._engine = engine
        self._policy_of = policy_of
        self._detector = DetectorRecord(name=engine.detector.name, weights_sha256=engine.detector.weights_sha256)

    def anonymize(self, records: Sequence[Record]) -> list[Ending]:
        """One ending per record, in order."""
        tasks = [self._read(record) for record in records]
        self._engine.anonymize([task for task in tasks if isinstance(task, Task)])
        return [self._end(record, task) for record, task in zip(records, tasks, strict=True)]

    def refuse(self, records: Sequence[Record], reason: Reason) -> list[Ending]:
        """The same without detection: every frame fully masked, or dropped where it has no readable size."""
        tasks = [self._read(record) for record in records]
        for task in tasks:
            if isinstance(task, Task):
                self._engine.refuse(task, reason)
        return [self._end(record, task) for record, task in zip(records, tasks, strict=True)]

    def _read(self, record: Record) -> Task | EnvelopeError:
        try:
            frame = RawFrame.from_message(record.key, record.value, record.headers)
        except EnvelopeError as error:
            return error
        return Task(frame, self._policy_of(frame.id.camera))

    def _end(self, record: Record, task: Task | EnvelopeError) -> Ending:
        if isinstance(task, EnvelopeError):
            return Ending(_unreadable(record, task), None)
        frame = task.frame
        if task.outcome is None:
            raise RuntimeError(f"{frame.id} has no outcome")  # the process ends; nothing is acknowledged
        audit = AuditEvent(
            id=str(frame.id),
            origin=record.origin,
            camera=frame.id.camera,
            epoch=frame.id.epoch,
            sequence=frame.id.sequence,
            outcome=task.outcome,
            reason=task.reason,
            detail=task.detail,
            captured_at=frame.captured_at,
            time_source=frame.time_source,
            audited_at=datetime.now(UTC),
            policy_version=_version(task),
            detector=self._detector if "detect" in task.timings else None,
            detections=task.detections,
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
        content_type="image/jpeg",
        outcome=task.outcome,
        reason=task.reason,
        policy_version=_version(task),
        detections=task.detections,
        payload=task.output,
    )


def _version(task: Task) -> int | None:
    return None if isinstance(task.policy, NoPolicy) else task.policy.version


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


class Worker:
    """Moves batches from Faust's stream to the broker: one batch is computed while the one before is delivered."""

    def __init__(self, settings: Settings, anonymizer: Anonymizer, producer: Producer) -> None:
        self._settings = settings
        self._anonymizer = anonymizer
        self._producer = producer
        self._compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._ended: asyncio.Queue[tuple[list[Any], list[Ending], bool]] = asyncio.Queue(maxsize=1)

    async def run(self, stream: Any) -> None:
        delivering = asyncio.create_task(self._deliver_all(stream))
        delivering.add_done_callback(_leave_on_failure)
        async for events in stream.noack_take(self._settings.batch_size, within=self._settings.batch_wait):
            metrics.BATCH_SIZE.observe(len(events))
            endings, timed_out = await self._compute([_record(event) for event in events])
            await self._ended.put((events, endings, timed_out))

    async def _compute(self, records: list[Record]) -> tuple[list[Ending], bool]:
        """Off the event loop, in one thread, so that batches keep their order."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._compute_thread, self._anonymizer.anonymize, records)
        done, _ = await asyncio.wait({work}, timeout=self._settings.detector_timeout)
        if done:
            return work.result(), False
        log.critical("detection took longer than %g s: batch fully masked, restarting", self._settings.detector_timeout)
        return await asyncio.to_thread(self._anonymizer.refuse, records, Reason.DETECTOR_TIMEOUT), True

    async def _deliver_all(self, stream: Any) -> None:
        while True:
            events, endings, timed_out = await self._ended.get()
            await self._deliver([message for ending in endings for message in ending.messages()])
            for event in events:  # offset order per partition: the order they came in
                await stream.ack(event)
            for ending in endings:
                metrics.count(ending.audit)
            if timed_out:
                await stream.app.consumer.commit()
                leave("a detection hung", EXIT_RESTART)

    async def _deliver(self, messages: list[tuple[Topic, Message]]) -> None:
        """Send and wait until the broker has acknowledged all; KafkaException where it refuses one."""
        loop = asyncio.get_running_loop()
        acknowledged: list[asyncio.Future[None]] = [loop.create_future() for _ in messages]
        for (topic, message), future in zip(messages, acknowledged, strict=True):

            def on_delivery(error: KafkaError | None, future: asyncio.Future[None] = future) -> None:
                loop.call_soon_threadsafe(_settle, future, error)

            while not self._producer.try_send(topic, message, on_delivery):
                await asyncio.sleep(0.01)
        await asyncio.gather(*acknowledged)


def _settle(future: asyncio.Future[None], error: KafkaError | None) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(RuntimeError(f"delivery failed: {error.str()}"))


def _record(event: Any) -> Record:
    message = event.message
    origin = Origin(topic=message.topic, partition=message.partition, offset=message.offset)
    return Record(message.key, message.value, list(message.headers or ()), origin)


def _leave_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        leave(f"delivery ended: {task.exception()!r}", EXIT_RESTART)


def leave(why: str, status: int) -> NoReturn:
    """End the process at once: what was not acknowledged is replayed by the next one."""
    log.critical("leaving: %s", why)
    logging.shutdown()
    os._exit(status)


def _end_within(seconds: float) -> None:
    """End the process even where a thread of a library would keep it from ending."""
    timer = threading.Timer(seconds, leave, ("shutdown took too long", 0))
    timer.daemon = True
    timer.start()


def build(settings: Settings, policies: PolicyStore) -> Anonymizer:
    """The anonymizer of these settings; DetectorError or WeightError where its detector cannot be made."""
    detector = detectors.make(
        settings.detector,
        DetectorOptions(
            threads=settings.detector_threads,
            long_side=settings.detector_long_side,
            device=settings.detector_device,
            model=settings.detector_model,
            weights_dir=settings.weights_dir,
        ),
    )
    limits = Limits(settings.max_pixels, settings.jpeg_quality, MAX_MESSAGE_BYTES - ENVELOPE_BYTES)
    return Anonymizer(Engine(detector, limits, threads=settings.codec_threads), policies.get)


async def run(app: Any, stream: Any, settings: Settings) -> None:
    """The Faust agent's body. Does not return and does not raise: it leaves the process instead."""
    try:
        policies = PolicyStore(settings)
        await asyncio.to_thread(policies.start)
        anonymizer = await asyncio.to_thread(build, settings, policies)
        metrics.serve(settings)
        Watchdog(app, settings, partial(leave, status=EXIT_RESTART)).start()
    except (detectors.DetectorError, weights.WeightError) as error:
        leave(str(error), EXIT_CONFIGURATION)
    except Exception as error:  # noqa: BLE001 - a supervisor restarts the process
        leave(f"cannot start: {error!r}", EXIT_RESTART)
    try:
        await Worker(settings, anonymizer, Producer(settings, client_id="sfumato-anonymize")).run(stream)
    except asyncio.CancelledError:
        _end_within(SHUTDOWN_TIMEOUT)
        raise
    except Exception as error:  # noqa: BLE001 - Faust would lose what is buffered
        leave(repr(error), EXIT_RESTART)
