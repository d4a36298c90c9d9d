"""What the topics hold of a camera, for exports: frames, audit events, a policy, and segments sealed by hand."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import exporting
from stack import demonstration_policy

from sfumato.agents.evidence.export import Account, Wanted, export
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, Message, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.policy import digest
from sfumato.schemas.segment import Segment
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED, LEDGER, Topic
from sfumato.schemas.topics import POLICIES as TOPIC_POLICIES
from tests.ingesting import read_topic

SIGNER = exporting.signer()
KEYS = [SIGNER.verifier]
POLICY = demonstration_policy("north").model_copy(update={"version": 3})
POLICIES = {"north@3": digest(POLICY.to_message(history=True).value)}
FRAMES = {n: b"\xff\xd8\xff" + f"picture {n}".encode() for n in range(12)}
EVENTS = [
    exporting.event(n, None if n == 5 else frame, policy_sha256=POLICIES["north@3"]) for n, frame in FRAMES.items()
]

NOW = datetime.now(UTC) - timedelta(minutes=2)


class Leaf:
    """An event whose message is another one's."""

    def __init__(self, value: bytes, event: AuditEvent) -> None:
        self.value, self.audited_at = value, event.audited_at

    def to_message(self) -> Leaf:
        return self


class Newer(AuditEvent):
    """As a later release may write it: the ledger takes it for a leaf, and this release for no valid event."""

    novel: int = 1


class Sender:
    """One producer for a whole test: each new one takes half a second to start."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(settings, client_id="test", idempotent=False)

    def __call__(self, *messages: tuple[Topic, Message], partition: int = -1) -> None:
        errors: queue.Queue[object] = queue.Queue()
        for topic, message in messages:
            self._producer.send(topic, message, errors.put, partition)
        assert {errors.get(timeout=30) for _ in messages} <= {None}

    def close(self) -> None:
        assert self._producer.close(30) == 0


def frame(sequence: int, payload: bytes, camera: str = "north", epoch: int = exporting.EPOCH) -> tuple[Topic, Message]:
    made = AnonymizedFrame(
        id=FrameId(camera, epoch, sequence),
        captured_at=exporting.BEGAN,
        time_source=TimeSource.ARRIVAL,
        width=64,
        height=36,
        content_type="image/jpeg",
        payload=payload,
        outcome=Outcome.MASKED,
        reason=None,
        policy_version=3,
        detections=(),
    )
    return FRAMES_ANONYMIZED, made.to_message()


def checkpoint(note: bytes, log: str = "north") -> tuple[Topic, Message]:
    return LEDGER, Message(log.encode(), note, [])


def lately(event: AuditEvent) -> AuditEvent:
    """As if it had happened around when the broker takes it: the export looks for frames there. Ten seconds apart."""
    return event.model_copy(update={"audited_at": NOW + timedelta(seconds=10 * (event.sequence or 0))})


class City:
    """A camera's topics: frames, events with duplicates and other cameras' between, a policy, segments."""

    def __init__(
        self, settings: Settings, send: Sender, sizes: tuple[int, ...], dated: Callable[[AuditEvent], AuditEvent]
    ) -> None:
        self.settings, self.send = settings, send
        self.events = [dated(event) for event in EVENTS]
        audits: list[tuple[Topic, Message]] = []
        for n, event in enumerate(self.events):
            audits.append((AUDIT, event.to_message()))
            if n in (3, 8):  # a worker that takes over says again what is known, also of an older segment
                later = exporting.event(n - 2, None)
                audits.append((AUDIT, later.to_message()))
            audits.append((AUDIT, exporting.event(n, None, camera="south").to_message()))
        told = [(TOPIC_POLICIES, POLICY.to_message(history=True))]
        send(*told, *(frame(n, FRAMES[n]) for n in FRAMES if n != 5), frame(0, FRAMES[0], "south"), *audits)
        first: dict[str, tuple[int, int]] = {}
        for message in read_topic(settings, AUDIT):
            id = json.loads(message.value())["id"]
            first.setdefault(id, (message.partition(), message.offset()))
        places = [first[event.id] for event in self.events]
        self.partition, self.offsets = places[0][0], [offset for _, offset in places]
        self.sealed = self.seal(tuple(size for size in sizes if size))
        send(*(checkpoint(note) for note, _ in self.sealed))

    def seal(self, sizes: tuple[int, ...], **changes: object) -> list[tuple[bytes, Segment]]:
        given = {"policies": POLICIES, "partition": self.partition, "offsets": self.offsets, **changes}
        return exporting.seal(SIGNER, self.events, sizes, **given)  # type: ignore[arg-type]

    def export(self, folder: Path, **changes: object) -> Account:
        return export(self.settings, Wanted("north", **changes), KEYS, folder)  # type: ignore[arg-type]
