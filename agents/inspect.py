"""The second look: a sample of the published frames is searched for what should have been masked.

Delivery guarantee: at least once. A message is acknowledged only after the broker has acknowledged its finds and the
suspension that they lead to; finds are counted by identity, so a replay counts none twice. As the anonymizer, the
agent never raises. It reads no raw frames.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sfumato.agents import exits, metrics, reader
from sfumato.agents.decoding import UndecodableError, UnitDecoder
from sfumato.agents.finds import FindStore, Ledger
from sfumato.agents.policies import PolicyStore
from sfumato.agents.policy_files import FloorError, read_floor
from sfumato.agents.produce import Producer, deliver
from sfumato.agents.sampling import Budget, Sampler
from sfumato.agents.settings import Settings
from sfumato.agents.suspensions import SuspensionStore, suspend
from sfumato.agents.watch import Watchdog
from sfumato.models import detectors, images, weights
from sfumato.models.detectors import Image
from sfumato.models.inspector import Inspector, Sighting
from sfumato.models.task import NoPolicy
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.find import Find
from sfumato.schemas.frame import AnonymizedFrame, Message
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.policy import Policy
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.topics import FINDS, SUSPENSIONS, Topic

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A frame to be looked at, under the policy that it was masked by, and when it was published."""

    frame: AnonymizedFrame
    policy: Policy
    at: datetime


class Skipped(Exception):
    """A message that is not looked at; the text is the reason, for the metric."""


class SecondLook:
    """What to look at, what was found, and whether that is too much. No Kafka but what the stores hold."""

    def __init__(
        self,
        inspector: Inspector,
        policies: PolicyStore,
        suspensions: SuspensionStore,
        ledger: Ledger,
        budget: Budget,
        max_pixels: int,
    ) -> None:
        self._inspector = inspector
        self._policies = policies
        self._suspensions = suspensions
        self._ledger = ledger
        self._budget = budget
        self._max_pixels = max_pixels
        self._sampler = Sampler()
        self._unseen: set[tuple[str, int]] = set()

    def choose(self, key: bytes | None, value: bytes | None, headers: Any, at: datetime) -> Chosen:
        """The frame of a message of ``frames.anonymized`` published ``at`` that time; :class:`Skipped` where it is
        not to be looked at."""
        try:
            frame = AnonymizedFrame.from_message(key, value, headers)
        except EnvelopeError as error:
            log.warning("a message breaks its contract: %s", error)
            raise Skipped("invalid_envelope") from None
        policy = self._policy(frame)
        slot = (frame.id.camera, at, policy.inspect.per_minute, self._ledger.newest(frame.id.camera))
        if not self._sampler.due(*slot):
            raise Skipped("not_sampled")
        if frame.unit is not None and not frame.unit.keyframe:
            raise Skipped("no_keyframe")
        if not self._budget.left:
            raise Skipped("over_budget")
        self._sampler.take(*slot)
        return Chosen(frame, policy, at)

    def look(self, chosen: Chosen) -> list[Find]:
        """The finds of a frame; :class:`Skipped` where there is no picture or the detector fails."""
        started = time.perf_counter()
        try:
            return self._look(chosen)
        finally:
            taken = time.perf_counter() - started
            self._budget.charge(taken)
            metrics.INSPECT_STAGE.observe(taken)

    def _look(self, chosen: Chosen) -> list[Find]:
        frame = chosen.frame
        try:
            picture = self._decode(frame)
        except Exception as error:  # noqa: BLE001 - decoders raise what they like, and the agent never raises
            log.warning("%s cannot be decoded: %s", frame.id, type(error).__name__)
            raise Skipped("undecodable") from None
        try:
            sightings = self._inspector.inspect(picture, frame.detections, chosen.policy)
            finds = [_find(chosen, sighting, picture.shape[:2]) for sighting in sightings]
        except Exception as error:  # noqa: BLE001 - the agent never raises
            log.error("%s: the second look failed: %s", frame.id, type(error).__name__)
            raise Skipped("detector_error") from None
        metrics.INSPECTED.labels(frame.id.camera).inc()
        return finds

    def record(self, finds: list[Find]) -> list[Suspension]:
        """Count finds; the suspensions that they lead to."""
        for find in finds:
            if self._ledger.add(find):
                metrics.FINDS.labels(find.camera, find.target.value).inc()
                log.warning("%s: a %s is not masked, score %.2f", find.frame, find.target.value, find.score)
        return self.overdrawn({find.camera for find in finds})

    def overdrawn(self, cameras: set[str]) -> list[Suspension]:
        """Suspensions of those of the cameras whose leak budget is spent."""
        suspensions = []
        for camera in sorted(cameras):
            newest, policy = self._suspensions.newest(camera), self._policies.get(camera)
            if isinstance(policy, NoPolicy) or (newest is not None and newest.suspended):
                continue
            count = self._ledger.count(camera, since=newest.at if newest else None)
            budget = policy.inspect.leak_budget
            if count > budget:
                suspensions.append(suspend(camera, f"{count} finds within an hour; the leak budget is {budget}", count))
        return suspensions

    def adopt(self, record: Suspension) -> None:
        """The broker has this suspension."""
        self._suspensions.adopt(record)

    def _policy(self, frame: AnonymizedFrame) -> Policy:
        if frame.outcome is not Outcome.MASKED:
            raise Skipped(frame.outcome.value)
        policy = self._policies.get(frame.id.camera)
        if isinstance(policy, NoPolicy):
            raise Skipped("no_policy")
        if policy.version != frame.policy_version:
            raise Skipped("other_policy")  # what was to be masked is not known here
        if not self._inspector.looks(policy):
            raise Skipped("no_detector")
        self._tell_unseen(policy)
        return policy

    def _tell_unseen(self, policy: Policy) -> None:
        if (policy.camera, policy.version) not in self._unseen:
            self._unseen.add((policy.camera, policy.version))
            for target in sorted(self._inspector.unseen(policy)):
                log.warning("camera %s: no detector of SFUMATO_INSPECT_DETECTORS sees %s", policy.camera, target.value)

    def _decode(self, frame: AnonymizedFrame) -> Image:
        reader.check(frame)
        if frame.unit is None:
            return images.decode(frame.payload, frame.content_type, max_pixels=self._max_pixels)
        decoder: UnitDecoder[None] = UnitDecoder()  # a keyframe needs nothing else
        pictures = [*decoder.decode(frame, None), *decoder.flush()]
        if not pictures:
            raise UndecodableError("a keyframe without a picture")
        picture: Image = pictures[0][1].to_ndarray(format="bgr24").astype(np.uint8, copy=False)
        return picture


def _find(chosen: Chosen, sighting: Sighting, shape: tuple[int, int]) -> Find:
    frame = chosen.frame.id
    return Find(
        camera=frame.camera,
        epoch=frame.epoch,
        sequence=frame.sequence,
        index=sighting.index,
        target=sighting.detection.target,
        score=sighting.detection.score,
        box=sighting.detection.box,
        covered=round(sighting.covered, 3),
        width=shape[1],
        height=shape[0],
        detector=sighting.look.record,
        smallest=sighting.look.smallest,
        policy_version=chosen.policy.version,
        published_at=chosen.at,
        found_at=datetime.now(UTC),
    )


class Worker:
    """Moves batches from Faust's stream through the inspection; a batch is acknowledged as a whole, in order."""

    def __init__(self, settings: Settings, second_look: SecondLook, producer: Producer) -> None:
        self.revoked = 0
        """How often partitions were taken away; what was read before is not acknowledged then, but read again."""
        self._settings = settings
        self._second_look = second_look
        self._producer = producer
        self._hung = False
        self._compute_thread = ThreadPoolExecutor(1, thread_name_prefix="inspect")

    async def run(self, stream: Any, cameras: list[str]) -> None:
        """``cameras``: with finds of the past hour; one whose suspension was cut off by a kill gets it now."""
        await self._suspend(self._second_look.overdrawn(set(cameras)))
        async for events in stream.noack_take(self._settings.batch_size, within=self._settings.batch_wait):
            revoked = self.revoked
            taken = await self._take(events)
            if self.revoked == revoked:
                for event in events[:taken]:
                    await stream.ack(event)
            if self._hung:
                await stream.app.consumer.commit()
                exits.restart("a second look hung")

    async def _take(self, events: list[Any]) -> int:
        """How many are done with: all, or those up to one on which a detector hung."""
        for number, event in enumerate(events, 1):
            try:
                chosen = self._choose(event.message)
                event.message.value = event.value = None
                looking = asyncio.get_running_loop().run_in_executor(
                    self._compute_thread, self._second_look.look, chosen
                )
                done, _ = await asyncio.wait({looking}, timeout=self._settings.detector_timeout)
                if not done:
                    self._hung = True
                    return number
                finds = looking.result()
            except Skipped as skipped:
                metrics.INSPECT_SKIPPED.labels(str(skipped)).inc()
                continue
            suspensions = self._second_look.record(finds)
            await deliver(self._producer, [(FINDS, find.to_message()) for find in finds])
            await self._suspend(suspensions)
        return len(events)

    def _choose(self, message: Any) -> Chosen:
        at = datetime.fromtimestamp(max(0.0, min(message.timestamp or 0.0, time.time())), UTC)
        return self._second_look.choose(message.key, message.value, list(message.headers or ()), at)

    async def _suspend(self, suspensions: list[Suspension]) -> None:
        messages: list[tuple[Topic, Message]] = [(SUSPENSIONS, record.to_message()) for record in suspensions]
        await deliver(self._producer, messages)
        for record in suspensions:
            self._second_look.adopt(record)
            metrics.SUSPENSIONS.labels(record.camera).inc()
            log.critical("camera %s is fully masked until a person lifts it: %s", record.camera, record.note)


def build(settings: Settings) -> Inspector:
    """The inspector of these settings; DetectorError or WeightError where it cannot be made."""
    options = settings.detector_options()
    made = [detectors.make(name, options) for name in settings.inspector_names()]
    return Inspector(made, settings.detector_names())


async def run(app: Any, stream: Any, settings: Settings) -> None:
    """The Faust agent's body. Does not return and does not raise: it leaves the process instead."""
    with exits.starting(FloorError, detectors.DetectorError, weights.WeightError):
        policies = PolicyStore(settings, read_floor(settings))
        suspensions, finds = SuspensionStore(settings), FindStore(settings)
        for store in (policies, suspensions, finds):
            await asyncio.to_thread(store.start)
        inspector = await asyncio.to_thread(build, settings)
        metrics.serve(settings)
        Watchdog(app, settings, exits.restart, assigned=metrics.INSPECT_ASSIGNED, lag=metrics.INSPECT_LAG).start()
    with exits.working():
        budget = Budget(settings.inspect_budget)
        second_look = SecondLook(inspector, policies, suspensions, finds, budget, settings.max_pixels)
        worker = Worker(settings, second_look, Producer(settings, client_id="sfumato-inspect"))

        def revoked(*_: Any, **__: Any) -> None:
            worker.revoked += 1

        app.on_partitions_revoked.connect(revoked, weak=False)
        await worker.run(stream, finds.cameras())
