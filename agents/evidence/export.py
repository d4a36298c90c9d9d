"""``sfumato export``: what a stranger needs to check a camera's frames, in one folder (docs/verify.md).

It reads ``ledger``, ``audit``, ``policies`` and ``frames.anonymized``, never ``frames.raw``. Memory does not grow with
what is exported.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from sfumato.agents import messages
from sfumato.agents.evidence.bundle import Bundle
from sfumato.agents.evidence.chain import Chain, Leaves, Sealed
from sfumato.agents.evidence.inventory import ExportError, read_file
from sfumato.agents.evidence.reading import Reading
from sfumato.agents.evidence.replay import open_signed
from sfumato.agents.evidence.tally import Frames
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, NoteError, VerifierKey
from sfumato.agents.settings import Settings
from sfumato.models import weights
from sfumato.schemas import export as files
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId
from sfumato.schemas.segment import has_frames
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED, POLICIES

AROUND = timedelta(minutes=10)
"""How long before its audit event a frame may have been published, and how long after the last one copies are looked
for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export. ``camera``: or the name of a log without frames. ``since`` and ``until``: by when segments were
    sealed; whole segments are exported, those that hold what happened before ``until`` included. ``kept``: checkpoints
    for which to prove that nothing was rewritten since."""

    camera: str
    since: datetime | None = None
    until: datetime | None = None
    frames: bool = True
    kept: Sequence[Path] = ()


@dataclass(slots=True)
class Account:
    """What came of an export."""

    first: int = 0
    size: int = 0
    segments: int = 0
    published: int = 0
    frames: int = 0
    copies: int = 0
    unnamed: list[str] = field(default_factory=list)
    unknown_policies: list[str] = field(default_factory=list)
    ignored_checkpoints: int = 0

    with_frames: bool = True

    @property
    def complete(self) -> bool:
        """Whether everything that was published or referred to is there."""
        return not self.unknown_policies and (not self.with_frames or self.frames == self.published)

    def report(self) -> dict[str, Any]:
        """``missing_frames``: published ones that the topic no longer holds. ``other_copies``: messages that no event
        names; ``without_event``: those of them whose frame has none in the export (the first 100)."""
        return {
            "first": self.first,
            "size": self.size,
            "segments": self.segments,
            "published": self.published,
            "frames": self.frames,
            "missing_frames": self.published - self.frames if self.with_frames else None,
            "other_copies": self.copies,
            "without_event": self.unnamed[:100],
            "unknown_policies": self.unknown_policies,
            "ignored_checkpoints": self.ignored_checkpoints,
        }


def export(settings: Settings, wanted: Wanted, keys: Sequence[VerifierKey], folder: Path) -> Account:
    """Write the folder. Raises :class:`ExportError` or ReadError where something that is needed is not there."""
    with (
        Chain(settings, wanted.camera, keys, _from(wanted)) as chain,
        Leaves(settings, wanted.camera) as leaves,
        Bundle(folder) as bundle,
        closing(Export(settings, wanted, chain, leaves, bundle)) as running,
    ):
        running.write(keys)
        return running.account


def _from(wanted: Wanted) -> datetime | None:
    """When the ledger's oldest segment that is needed was sealed; None: it is read from its beginning."""
    return None if wanted.kept or not has_frames(wanted.camera) else wanted.since


class Export:
    """One export on its way."""

    def __init__(self, settings: Settings, wanted: Wanted, chain: Chain, leaves: Leaves, bundle: Bundle) -> None:
        self.account = Account(ignored_checkpoints=chain.ignored, with_frames=wanted.frames)
        self._settings = settings
        self._wanted = wanted
        self._chain = chain
        self._leaves = leaves
        self._bundle = bundle
        self._seen = Frames()
        self._policies: dict[str, str] = {}
        self._detectors: set[tuple[str, str]] = set()
        self._keys: dict[VerifierKey, None] = {}
        self._partitions: set[int] = set()
        self._earliest: datetime | None = None
        self._latest: datetime | None = None
        self._frames = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._frames.execute(
            "CREATE TABLE frames (epoch INT, sequence INT, sha256 TEXT, written INT, PRIMARY KEY (epoch, sequence)) "
            "WITHOUT ROWID"
        )

    def close(self) -> None:
        self._frames.close()

    def write(self, keys: Sequence[VerifierKey]) -> None:
        first = self._begin()
        self._write_log(first)
        self._write_consistency(keys)
        self._write_policies()
        self._write_weights()
        self._write_frames()
        self._bundle.put(files.KEY, "".join(f"{key}\n" for key in self._keys).encode())
        account = self.account
        scope = files.Scope(log=self._chain.log, first=account.first, size=account.size, frames=self._wanted.frames)
        self._bundle.finish(scope)

    def _begin(self) -> int:
        """The first leaf of what is wanted."""
        since = self._wanted.since
        for first, _, at in self._chain.times():
            if since is None or at >= since:
                return first
        raise ExportError(f"{self._chain.log}: nothing was sealed since {since}")

    def _write_log(self, first: int) -> None:
        account, until = self.account, self._wanted.until
        account.first = account.size = first
        over = False
        with self._bundle.lines(files.AUDIT) as lines:
            # Of a log without frames only all that came before says what is a duplicate.
            for sealed in self._chain.sealed(first if has_frames(self._chain.log) else 0):
                leaves = self._leaves.of(sealed.segment)
                if sealed.segment.first < first:
                    continue
                if over and until is not None and not self._began_before(leaves, until):
                    break
                for leaf in leaves:
                    lines.put(files.leaf_line(leaf))
                    self._take_event(leaf)
                self._put_checkpoint(sealed)
                self._take_segment(sealed)
                over = until is not None and sealed.segment.sealed_at >= until
        account.published = self._count("SELECT count(*) FROM frames")

    def _began_before(self, leaves: list[bytes], until: datetime) -> bool:
        """Whether a segment that was sealed later holds events from before: the ledger lagged."""
        try:
            return AuditEvent.from_message(leaves[0]).audited_at < until
        except EnvelopeError:
            return False

    def _put_checkpoint(self, sealed: Sealed) -> None:
        self._keys.setdefault(sealed.key)
        self._bundle.put(files.checkpoint_path(sealed.checkpoint.size), sealed.note)

    def _take_segment(self, sealed: Sealed) -> None:
        segment = sealed.segment
        self.account.segments += 1
        self.account.size = segment.size
        self._policies.update(segment.policies)
        self._detectors.update((name, digest) for name, all_ in segment.detectors.items() for digest in all_)
        self._partitions.add(segment.source.partition)

    def _take_event(self, leaf: bytes) -> None:
        try:
            event = AuditEvent.from_message(leaf)
        except EnvelopeError:
            return  # exported all the same: `sfumato verify` names it
        if event.epoch is None or event.sequence is None or not has_frames(self._chain.log):
            return
        self._seen.add(event.epoch, event.sequence)
        self._earliest = min(self._earliest or event.audited_at, event.audited_at)
        self._latest = max(self._latest or event.audited_at, event.audited_at)
        if event.output_sha256 is not None:
            row = (event.epoch, event.sequence, event.output_sha256)
            self._frames.execute("INSERT OR IGNORE INTO frames VALUES (?, ?, ?, 0)", row)

    def _write_consistency(self, keys: Sequence[VerifierKey]) -> None:
        first = self.account.first
        for path in self._wanted.kept:
            try:
                checkpoint, key = open_signed(read_file(path, path.name, MAX_NOTE_BYTES).decode(errors="replace"), keys)
            except NoteError as error:
                raise ExportError(f"{path}: {error}") from None
            if checkpoint.origin != f"{key.name}/{self._chain.log}":
                raise ExportError(f"{path}: of {checkpoint.origin}, not of {self._chain.log}")
            if 0 < checkpoint.size < first:
                proof = tuple(h.hex() for h in self._chain.consistency(checkpoint.size, first, self._leaves))
                consistency = files.Consistency(first=checkpoint.size, second=first, path=proof)
                self._bundle.put_record(files.consistency_path(checkpoint.size), consistency)

    def _write_policies(self) -> None:
        found: dict[str, str] = {}
        if self._policies:
            with Reading(self._settings, POLICIES) as reading:
                for message in reading.messages():
                    key, value = (messages.key(message) or b"").decode(errors="replace"), messages.value(message) or b""
                    if self._policies.get(key) == hashlib.sha256(value).hexdigest():
                        found[key] = value.decode(errors="replace")
        self.account.unknown_policies = sorted(self._policies.keys() - found.keys())
        with self._bundle.lines(files.POLICIES) as lines:
            for name, text in sorted(found.items()):
                lines.put(files.dump(files.PolicyVersion(key=name, value=text)))

    def _write_weights(self) -> None:
        names = {pinned.sha256: pinned.name for pinned in weights.WEIGHTS.values()}
        listed = tuple(
            files.Weight(detector=detector, sha256=digest, name=names.get(digest))
            for detector, digest in sorted(self._detectors)
        )
        self._bundle.put_record(files.WEIGHTS, files.Weights(weights=listed))

    # Frames

    def _write_frames(self) -> None:
        with self._bundle.lines(files.COPIES) as copies:
            if not self._wanted.frames or self._earliest is None or self._latest is None:
                return
            with Reading(self._settings, FRAMES_ANONYMIZED) as reading, Reading(self._settings, AUDIT) as audit:
                starts = reading.offsets_at(self._earliest - AROUND)
                # The producer chooses partitions by key: of two topics with as many, the same.
                same = reading.partitions == audit.partitions
                likely = {n: at for n, at in starts.items() if not same or n in self._partitions}
                for places in (likely, {n: at for n, at in starts.items() if n not in likely}):
                    if places and self.account.frames < self.account.published:
                        for copy in self._copies(reading.messages(places, self._latest + AROUND)):
                            copies.put(files.dump(copy))

    def _copies(self, found: Iterable[Message]) -> Iterator[files.Copy]:
        """Write what events name; the messages of frames of the export that none names."""
        for message in found:
            if messages.key(message) != self._wanted.camera.encode():
                continue
            try:
                envelope = CloudEvent.from_headers(messages.headers(message))
                frame = envelope.frame_id(messages.key(message))
            except EnvelopeError:
                continue  # nobody shows it: it breaks its contract
            copy = self._take_frame(frame, envelope.content_type, message)
            if copy is not None:
                self.account.copies += 1
                if not copy.event:
                    self.account.unnamed.append(str(frame))
                yield copy

    def _take_frame(self, frame: FrameId, content_type: str, message: Message) -> files.Copy | None:
        value = messages.value(message) or b""
        digest, has_event = hashlib.sha256(value).hexdigest(), self._seen.has(frame.epoch, frame.sequence)
        query = "SELECT sha256, written FROM frames WHERE epoch = ? AND sequence = ?"
        named, written = self._frames.execute(query, (frame.epoch, frame.sequence)).fetchone() or (None, 0)
        if named == digest:
            if not written and files.has_place(frame.epoch, frame.sequence):
                self._bundle.put(files.frame_path(frame, files.SUFFIXES.get(content_type, ".h264")), value)
                done = "UPDATE frames SET written = 1 WHERE epoch = ? AND sequence = ?"
                self._frames.execute(done, (frame.epoch, frame.sequence))
                self.account.frames += 1
            return None
        if not has_event and not self._seen.between(frame.epoch, frame.sequence):
            return None  # of before or after the export
        return files.Copy(
            epoch=frame.epoch,
            sequence=frame.sequence,
            event=has_event,
            sha256=digest,
            size=len(value),
            partition=message.partition() or 0,
            offset=message.offset() or 0,
        )

    def _count(self, query: str) -> int:
        (count,) = self._frames.execute(query).fetchone()
        return int(count)
