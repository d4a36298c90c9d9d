"""Audit events by hand, and what the ledger made of them, as its readers see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfumato.agents.ledger.book import Book, Rules
from sfumato.agents.ledger.entries import Entry, Place, read_audit
from sfumato.agents.ledger.note import Checkpoint, Signer, VerifierKey, open_note
from sfumato.agents.ledger.tree import Range, Subtrees, consistent, leaf_hash
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent, DetectorRecord, Origin
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import Segment
from sfumato.schemas.topics import AUDIT, LEDGER
from tests.ingesting import read_topic

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def event(
    sequence: int,
    outcome: Outcome = Outcome.MASKED,
    reason: Reason | None = None,
    camera: str = "north",
    epoch: int = 1,
    took: float = 0.0,
) -> AuditEvent:
    """``took``: what tells one event of a frame from another of the same frame."""
    return AuditEvent(
        id=f"{camera}/{epoch}/{sequence}",
        origin=Origin(topic="frames.raw", partition=0, offset=sequence),
        camera=camera,
        epoch=epoch,
        sequence=sequence,
        outcome=outcome,
        reason=reason,
        audited_at=NOW,
        policy_version=1,
        detectors=(DetectorRecord(name="centerface", weights_sha256="c" * 64),),
        input_bytes=1,
        input_sha256="a" * 64,
        output_sha256=None if outcome is Outcome.DROPPED else "b" * 64,
        timings_ms={"decode": took},
    )


def audit(*arguments: object, **changes: object) -> Message:
    return event(*arguments, **changes).to_message()  # type: ignore[arg-type]


def record(last: int, state: EpochState = EpochState.ENDED, camera: str = "north", **dropped: int) -> EpochRecord:
    counts = {Reason(name): count for name, count in dropped.items()}
    return EpochRecord(camera=camera, epoch=1, state=state, at=NOW, last_sequence=last, dropped=counts)


@dataclass(frozen=True)
class Published:
    """One checkpoint of the topic."""

    checkpoint: Checkpoint
    segment: Segment
    note: str


def published(settings: Settings, key: VerifierKey) -> dict[str, list[Published]]:
    """The checkpoints of each log, identical ones once, in the topic's order; each is signed, and says of its root
    what the checkpoint says."""
    found: dict[str, dict[str, Published]] = {}
    for message in read_topic(settings, LEDGER):
        note = message.value().decode()
        checkpoint = Checkpoint.parse(open_note(note, key))
        segment = Segment.parse(checkpoint.extensions[0])
        assert checkpoint.origin == f"{settings.ledger_origin}/{segment.log}"
        assert message.key() == segment.log.encode()
        assert (segment.size, segment.root) == (checkpoint.size, checkpoint.root.hex())
        found.setdefault(segment.log, {})[note] = Published(checkpoint, segment, note)
    return {log: list(notes.values()) for log, notes in found.items()}


def leaves(settings: Settings) -> dict[str, list[bytes]]:
    """Each camera's leaves, as anybody finds them who reads ``audit`` by the rules of docs/ledger.md."""
    found: dict[str, dict[tuple[int, int], bytes]] = {}
    for message in read_topic(settings, AUDIT):
        value = message.value()
        read = AuditEvent.from_message(value)
        assert read.camera is not None
        assert read.epoch is not None
        assert read.sequence is not None
        found.setdefault(read.camera, {}).setdefault((read.epoch, read.sequence), value)
    return {camera: list(values.values()) for camera, values in found.items()}


def assert_sealed_as_read(found: list[Published], values: list[bytes]) -> None:
    """Every checkpoint is the head of a beginning of the leaves; one covers all of them; one follows the other."""
    whole = Range()
    roots = {0: whole.root()}
    for value in values:
        whole.append(leaf_hash(value))
        roots[whole.end] = whole.root()
    for each in found:
        segment = each.segment
        assert each.checkpoint.root == roots[segment.size]
        assert segment.previous_root == roots[segment.first].hex()
    assert max(each.segment.size for each in found) == len(values)
    known = {each.segment.size for each in found} | {0}
    assert all(each.segment.first in known for each in found)


def assert_consistent(found: list[Published], values: list[bytes]) -> None:
    """By proofs: no checkpoint rewrites what another says."""
    tree = Subtrees([Range(number, number + 1, [leaf_hash(value)]) for number, value in enumerate(values)])
    ordered = sorted({(each.checkpoint.size, each.checkpoint.root) for each in found})
    for number, (first, first_root) in enumerate(ordered):
        for second, second_root in ordered[number:]:
            assert consistent(first, second, tree.consistency(first, second), first_root, second_root)


SIGNER = Signer("city.example", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
PLACE = Place("t.audit", 0)
GRACE = 60.0
RAW = 600.0


def entry(*arguments, **changes) -> Entry:
    message = event(*arguments, **changes).to_message()
    return read_audit(message.key, message.value, 0)


def make_book(events: int = 5, seconds: float = 10.0) -> Book:
    return Book(SIGNER, Rules(events, seconds, GRACE, RAW), lambda name, version: None, {PLACE.topic: "audit"})
