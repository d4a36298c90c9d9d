"""What the ledger made of the audit events: every leaf sealed, no log forked; reckoned from the topics alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfumato.agents.ledger.note import Checkpoint, NoteError, VerifierKey, open_note
from sfumato.agents.ledger.tree import Range, leaf_hash
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.segment import Segment


@dataclass
class Log:
    """One camera's. ``roots``: of its leaves, by how many there are. ``notes``: signed, as they came."""

    leaves: Range = field(default_factory=Range)
    roots: dict[int, bytes] = field(default_factory=lambda: {0: Range().root()})
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sealed:
    """One segment as it came from the broker; ``at`` as the ledger says, in seconds since 1970."""

    camera: str
    at: float


@dataclass
class Seals:
    logs: dict[str, Log] = field(default_factory=dict)
    came: list[Sealed] = field(default_factory=list)
    _seen: set[FrameId] = field(default_factory=set)

    def add_leaf(self, frame: FrameId, value: bytes) -> None:
        """A message of ``audit``, in the order of its partition; the first of an identity is a leaf."""
        if frame not in self._seen:
            self._seen.add(frame)
            log = self.logs.setdefault(frame.camera, Log())
            log.leaves.append(leaf_hash(value))
            log.roots[log.leaves.end] = log.leaves.root()

    def add_note(self, camera: str, note: str) -> None:
        self.logs.setdefault(camera, Log()).notes.append(note)
        sealed_at = Segment.parse(note.splitlines()[3]).sealed_at.timestamp()
        self.came.append(Sealed(camera, sealed_at))

    def sealed_since(self, moment: float) -> set[str]:
        """The cameras of segments that were sealed after a moment, in seconds since 1970."""
        return {sealed.camera for sealed in self.came if sealed.at >= moment}

    def verdict(self, key: VerifierKey) -> tuple[int, int]:
        """How many leaves are under no checkpoint, and how many checkpoints are of no beginning of their log, do not
        follow another, or are not signed by the key."""
        unsealed = wrong = 0
        for log in self.logs.values():
            sizes = {0}
            firsts = []
            for note in log.notes:
                try:
                    checkpoint = Checkpoint.parse(open_note(note, key))
                    segment = Segment.parse(checkpoint.extensions[0])
                except (NoteError, EnvelopeError):
                    wrong += 1
                    continue
                wrong += log.roots.get(checkpoint.size) != checkpoint.root
                sizes.add(checkpoint.size)
                firsts.append(segment.first)
            wrong += sum(first not in sizes for first in firsts)
            unsealed += log.leaves.end - max(sizes)
        return unsealed, wrong
