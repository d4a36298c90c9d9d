"""What became of the frames: from the signed segments of the ledger; where there are none, from the audit itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sfumato.agents.dossier.facts import Absent, Counts, Frames
from sfumato.agents.follow import Follower
from sfumato.agents.ledger.note import Checkpoint, NoteError, VerifierKey, open_note
from sfumato.agents.queries import AuditQuery
from sfumato.agents.search import Search
from sfumato.agents.sequences import Sequences
from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CAMERA_ID, EnvelopeError
from sfumato.schemas.segment import DISCLOSURES_LOG, Segment
from sfumato.schemas.topics import AUDIT, LEDGER

NO_CAMERA = "(no camera)"
"""Frames whose envelope could not be read."""
AT_A_TIME = 1_000
"""Audit events read at a time."""


def from_ledger(settings: Settings, since: datetime, keys: Sequence[VerifierKey]) -> Frames | Absent:
    """The segments published since, each checked; without keys they count, and are said to be unchecked."""
    reading = Segments(keys)
    follower = Follower(settings, LEDGER, lambda log, note, at: reading.take(log, note), since=since)
    try:
        follower.load()
    finally:
        follower.close()
    if not reading.taken:
        return Absent("the topic ledger holds no segment of this span")
    return reading.frames()


class Segments:
    """The notes of the topic ``ledger``, in order. What is flawed is named and not counted.

    Checked: the signature, that the checkpoint and the segment in it say the same, and that each segment goes on where
    the one before it ended. That the leaves are those of the topic ``audit`` is for ``sfumato verify``.
    """

    def __init__(self, keys: Sequence[VerifierKey]) -> None:
        """``keys``: whose signatures are believed, any of them; none: signatures are not looked at."""
        self._keys = tuple(keys)
        self._newest: dict[str, Segment] = {}
        self._roots: dict[tuple[str, int], str] = {}
        self._counts: dict[str, Counts] = {}
        self._weights: dict[str, set[str]] = {}
        self._flaws: list[str] = []
        self.taken = 0

    def take(self, key: bytes | None, value: bytes | None) -> None:
        self.taken += 1
        log = (key or b"").decode(errors="replace")
        try:
            segment = self._open(log, value or b"")
        except (EnvelopeError, NoteError, UnicodeDecodeError) as error:
            self._flaws.append(f"message {self.taken} of the span, log {log}: {error}")
            return
        known = self._roots.setdefault((log, segment.size), segment.root)
        if known != segment.root:
            self._flaws.append(f"log {log}, size {segment.size}: two segments with different heads; the log was forked")
        elif self._follows(segment):
            self._count(segment)

    def frames(self) -> Frames:
        return Frames(
            source="topic ledger, sealed segments",
            cameras=self._counts,
            weights={name: tuple(sorted(found)) for name, found in self._weights.items()},
            flaws=tuple(self._flaws),
            signed_by=tuple(map(str, self._keys)),
            records=len(self._roots),
        )

    def _open(self, log: str, value: bytes) -> Segment:
        note = value.decode()
        text = self._text(note)
        head = Checkpoint.parse(text)
        if len(head.extensions) != 1:
            raise NoteError("checkpoint: wants one further line, the segment")
        segment = Segment.parse(head.extensions[0])
        said = (head.origin.rpartition("/")[2], head.size, head.root.hex())
        if said != (segment.log, segment.size, segment.root) or segment.log != log:
            raise NoteError("checkpoint: says something else than the segment in it")
        if sum(segment.outcomes.values()) + segment.invalid != segment.size - segment.first:
            raise NoteError("segment: its outcomes are not as many as its leaves")
        return segment

    def _text(self, note: str) -> str:
        if not self._keys:
            return note.rpartition("\n\n")[0] + "\n"
        for key in self._keys[:-1]:
            with suppress(NoteError):
                return open_note(note, key)
        return open_note(note, self._keys[-1])

    def _follows(self, segment: Segment) -> bool:
        """Whether the segment is new and goes on where the newest ended."""
        newest = self._newest.get(segment.log)
        if newest is not None and segment.size <= newest.size:
            return False  # a duplicate
        if newest is not None and (segment.first, segment.previous_root) != (newest.size, newest.root):
            where = f"log {segment.log}, size {segment.size}"
            self._flaws.append(f"{where}: does not go on where the segment before it ended (size {newest.size})")
        self._newest[segment.log] = segment
        return True

    def _count(self, segment: Segment) -> None:
        if not _holds_frames(segment.log):
            return
        counts = self._counts.setdefault(segment.log if CAMERA_ID.fullmatch(segment.log) else NO_CAMERA, Counts())
        for outcome, number in segment.outcomes.items():
            counts.outcomes[outcome] = counts.outcomes.get(outcome, 0) + number
        for reason, number in segment.reasons.items():
            counts.reasons[reason] = counts.reasons.get(reason, 0) + number
        counts.missing += sum(gap.last - gap.first + 1 for gap in segment.missing) - segment.found_late
        counts.invalid += segment.invalid
        counts.duplicates += segment.duplicates
        counts.conflicting += segment.conflicting
        for detector, weights in segment.detectors.items():
            self._weights.setdefault(detector, set()).update(weights)


def _holds_frames(log: str) -> bool:
    """Whether the leaves of a log are audit events of frames; those of others are disclosures."""
    return log != DISCLOSURES_LOG


@dataclass(slots=True)
class _Epoch:
    """Which sequences of an epoch were audited, from the first one that was seen on. Few come before it: pictures may
    be out of order by some."""

    start: int
    after: Sequences = field(default_factory=Sequences)
    before: set[int] = field(default_factory=set)

    def add(self, sequence: int) -> bool:
        """Whether it was new."""
        if sequence >= self.start:
            return self.after.add(sequence - self.start)
        new = sequence not in self.before
        self.before.add(sequence)
        return new

    def missing(self) -> int:
        """Between the first and the last."""
        early = self.start - min(self.before, default=self.start) - len(self.before)
        return early + self.after.missing(self.after.last)


def from_audit(settings: Settings, since: datetime, until: datetime) -> Frames | Absent:
    """The audit events of the span, duplicates left out; they are not signed."""
    query = AuditQuery(lambda camera: True, since=since, until=until)
    with Search(settings, query) as search:
        return count(event for page in search.pages(AT_A_TIME) for event in page)


def count(events: Iterable[AuditEvent]) -> Frames | Absent:
    cameras: dict[str, Counts] = {}
    epochs: dict[tuple[str, int], _Epoch] = {}
    weights: dict[str, set[str]] = {}
    unframed: set[str] = set()
    total = 0
    for event in events:
        total += 1
        counts = cameras.setdefault(event.camera or NO_CAMERA, Counts())
        frame = event.frame
        if frame is None:
            new = event.id not in unframed
            unframed.add(event.id)
        else:
            epoch = epochs.setdefault((frame.camera, frame.epoch), _Epoch(frame.sequence))
            new = epoch.add(frame.sequence)
        if not new:
            counts.duplicates += 1
            continue
        _add(counts, event)
        for detector in event.detectors:
            weights.setdefault(detector.name, set()).add(detector.weights_sha256)
    for (camera, _), epoch in epochs.items():
        cameras[camera].missing += epoch.missing()
    if not total:
        return Absent(f"the topic {AUDIT.name} holds no event of this span")
    found = {name: tuple(sorted(hashes)) for name, hashes in weights.items()}
    return Frames("topic audit, unsigned", cameras, found, records=total)


def _add(counts: Counts, event: AuditEvent) -> None:
    counts.outcomes[event.outcome] = counts.outcomes.get(event.outcome, 0) + 1
    if event.reason is not None:
        counts.reasons[event.reason] = counts.reasons.get(event.reason, 0) + 1


def total(frames: Frames) -> Counts:
    """The counts of all cameras."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for counts in frames.cameras.values():
        outcomes.update(counts.outcomes)
        reasons.update(counts.reasons)
    every = frames.cameras.values()
    return Counts(
        dict(sorted(outcomes.items())),
        dict(sorted(reasons.items())),
        sum(counts.missing for counts in every),
        sum(counts.duplicates for counts in every),
        sum(counts.conflicting for counts in every),
        sum(counts.invalid for counts in every),
    )
