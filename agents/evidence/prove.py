"""``sfumato prove``: the proof that a frame's audit event is in its camera's log, from Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sfumato.agents.evidence.chain import Chain, Leaves, find
from sfumato.agents.evidence.proof import Proof
from sfumato.agents.evidence.reading import ReadError
from sfumato.agents.evidence.replay import frontier
from sfumato.agents.ledger.note import VerifierKey
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.export import LARGEST_EPOCH


def prove(settings: Settings, frame: FrameId, keys: Sequence[VerifierKey]) -> Proof:
    """The proof under the head of the segment that sealed the frame's event; only that segment's events are read, and
    the ledger from when the frame's epoch began. Raises :class:`ReadError` where there is none."""
    begun = datetime.fromtimestamp(min(frame.epoch, LARGEST_EPOCH) / 1000, UTC)
    with Chain(settings, frame.camera, keys, begun) as chain, Leaves(settings, frame.camera) as leaves:
        sealed = find(chain, frame.epoch, frame.sequence)
        if sealed is None:
            raise ReadError(f"{frame}: no segment has its audit event (yet)")
        segment = sealed.segment
        events = leaves.of(segment)
        position = next(n for n, event in enumerate(events) if _frame(event) == frame)
        hashes = [Range(index, index + 1, [leaf_hash(event)]) for index, event in enumerate(events, segment.first)]
        known = Subtrees((frontier(segment), *hashes))
        index = segment.first + position
        path = tuple(known.inclusion(index, segment.size))
        return Proof(events[position], index, path, sealed.note.decode())


def _frame(event: bytes) -> FrameId | None:
    try:
        return AuditEvent.from_message(event).frame
    except EnvelopeError:
        return None
