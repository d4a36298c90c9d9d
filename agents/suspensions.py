"""Which cameras are suspended: the topic read whole at start, then followed; and how a person lifts a suspension.

A suspended camera is fully masked, whatever its policy says. A record that cannot be read suspends the camera that
its key names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec

from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from sfumato.agents import metrics
from sfumato.agents.follow import Follower
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.models.task import NoPolicy
from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID, EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.suspension import Suspension, SuspensionState
from sfumato.schemas.topics import SUSPENSIONS

log = logging.getLogger(__name__)

P = ParamSpec("P")


class SuspensionError(Fault, ValueError):
    """A suspension cannot be shown or lifted; the text says why."""


class SuspensionStore:
    """Thread-safe. :meth:`start` returns once every suspension published before it has been read."""

    def __init__(self, settings: Settings) -> None:
        self.history: list[Suspension] = []
        """Every record, oldest first."""
        self._newest: dict[str, Suspension] = {}
        self._follower = Follower(settings, SUSPENSIONS, lambda key, value, _: self.take(key, value))

    def start(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._follower.load(timeout)

    def close(self) -> None:
        self._follower.close()

    def newest(self, camera: str) -> Suspension | None:
        """The camera's state; None: it was never suspended."""
        return self._newest.get(camera)

    def states(self) -> list[Suspension]:
        """The newest record of every camera that ever was suspended, by camera."""
        return [self._newest[camera] for camera in sorted(self._newest)]

    def suspended(self, camera: str) -> bool:
        newest = self._newest.get(camera)
        return newest is not None and newest.suspended

    def over(
        self, policy_of: Callable[Concatenate[str, P], Policy | NoPolicy]
    ) -> Callable[Concatenate[str, P], Policy | NoPolicy]:
        """The policy of a camera as ``policy_of`` says, none while it is suspended."""

        def in_force(camera: str, /, *args: P.args, **kwargs: P.kwargs) -> Policy | NoPolicy:
            newest = self._newest.get(camera)
            if newest is not None and newest.suspended:
                return NoPolicy(Reason.SUSPENDED, newest.note)
            return policy_of(camera, *args, **kwargs)

        return in_force

    def adopt(self, record: Suspension) -> None:
        """What this process has published holds for it at once."""
        newest = self._newest.get(record.camera)
        if newest is None or newest.at < record.at:
            self._newest[record.camera] = record

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """One message of ``suspensions``."""
        try:
            record = Suspension.from_message(key, value)
        except EnvelopeError as error:
            camera = (key or b"").decode(errors="replace").partition("/")[0]
            if not CAMERA_ID.fullmatch(camera):
                log.error("a message of suspensions names no camera: %s", error)
                return
            log.error("camera %s is suspended: its record cannot be read: %s", camera, error)
            record = suspend(camera, f"a record on the topic cannot be read: {error}"[:500])
        self.history.append(record)
        self._newest[record.camera] = record
        metrics.CAMERA_SUSPENDED.labels(record.camera).set(record.suspended)
        log.info("camera %s: %s by %s: %s", record.camera, record.state.value, record.by, record.note)


def suspend(camera: str, note: str, finds: int | None = None) -> Suspension:
    """The record that suspends a camera now."""
    return Suspension(
        camera=camera,
        state=SuspensionState.SUSPENDED,
        at=datetime.now(UTC),
        by="sfumato inspect",
        note=note,
        finds=finds,
    )


def read(settings: Settings) -> SuspensionStore:
    """What the topic holds now."""
    store = SuspensionStore(settings)
    try:
        store.start()
    finally:
        store.close()
    return store


def lift(settings: Settings, camera: str, by: str, note: str, timeout: float = 30.0) -> Suspension:
    """Lift a camera's suspension; returns the record once the broker has it. :class:`SuspensionError` where the
    camera is not suspended, KafkaException or TimeoutError where the broker does not take the record."""
    if not read(settings).suspended(camera):
        raise SuspensionError(f"camera {camera!r} is not suspended; `sfumato suspension list` shows those that are")
    try:
        record = Suspension(camera=camera, state=SuspensionState.LIFTED, at=datetime.now(UTC), by=by, note=note)
    except ValidationError as error:
        raise SuspensionError(summary(error)) from None
    producer = Producer(settings, client_id="sfumato-suspension")
    failures: list[KafkaError] = []
    producer.send(SUSPENSIONS, record.to_message(), lambda error: failures.append(error) if error else None)
    if producer.close(timeout):
        raise TimeoutError(f"the broker did not take the record within {timeout} s; is it up?")
    if failures:
        raise KafkaException(failures[0])
    return record
