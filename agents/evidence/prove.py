"""``sfumato prove``: the proof that a frame's audit event is in its camera's log, from Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sfumato.agents.evidence.chain import Chain, Leaves, find
from sfumato.agents.evidence.proof import Proof
from sfumato.agents.evidence.reading import ReadError
from sfumato.agents.evidence.replay import frontier
from sfumato.agents.ledger.entries import read_audit
from sfumato.agents.ledger.note import VerifierKey
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import FrameId
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
        events = [leaf.value for leaf in leaves.of(segment)]
        # By its identity, as the ledger reads it: another release may have written what is no valid event here.
        found = (n for n, event in enumerate(events) if _identity(event, frame.camera) == frame[1:])
        if (position := next(found, None)) is None:
            raise ReadError(f"{frame}: the segment of {segment.size} leaves says it has its audit event, and has not")
        hashes = [Range(index, index + 1, [leaf_hash(event)]) for index, event in enumerate(events, segment.first)]
        known = Subtrees((frontier(segment), *hashes))
        index = segment.first + position
        path = tuple(known.inclusion(index, segment.size))
        return Proof(events[position], index, path, sealed.note.decode())


def _identity(event: bytes, camera: str) -> tuple[int, int] | str:
    return read_audit(camera.encode(), event, 0).identity
