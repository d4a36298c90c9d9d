"""A log read anew: every leaf of an export hashed and counted, and every head on the way recomputed."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sfumato.agents.evidence.inventory import ExportError, read_file, read_lines
from sfumato.agents.evidence.tally import Frames, Tally
from sfumato.agents.evidence.verdict import Verdict
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, Checkpoint, NoteError, VerifierKey, open_note
from sfumato.agents.ledger.tree import Range, cover, leaf_hash
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.export import AUDIT, CHECKPOINTS, MANIFEST, Scope
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.segment import Run, Segment, has_frames

AT_ONCE = 10_000
"""Published frames that are written to the temporary database at once."""


def open_signed(note: str, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
    """A checkpoint, and which of the keys signed it. Raises :class:`NoteError` where none did."""
    problem = NoteError("note: there is no key")
    for key in keys:
        try:
            return Checkpoint.parse(open_note(note, key)), key
        except NoteError as error:
            problem = error
    raise problem


def open_checkpoint(note: bytes, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, Segment, VerifierKey]:
    """A sealed segment, its log's head, and which of the keys signed it. Raises :class:`NoteError` where none did, or
    where it says two things."""
    try:
        checkpoint, key = open_signed(note.decode(), keys)
        if len(checkpoint.extensions) != 1:
            raise NoteError("checkpoint: wants one line after its root, the segment")
        segment = Segment.parse(checkpoint.extensions[0])
    except UnicodeDecodeError:
        raise NoteError("note: not UTF-8") from None
    except EnvelopeError as error:
        raise NoteError(str(error)) from None
    if segment.size != checkpoint.size or segment.root != checkpoint.root.hex():
        raise NoteError("segment: its size or root is not the checkpoint's")
    if checkpoint.origin != f"{key.name}/{segment.log}":
        raise NoteError(f"checkpoint: its origin is not {key.name}/{segment.log}")
    if segment.first >= segment.size:
        raise NoteError("segment: without leaves")
    return checkpoint, segment, key


def frontier(segment: Segment) -> Range:
    """The leaves before a segment's. Raises ValueError where it does not cover exactly these."""
    return Range(0, segment.first, map(bytes.fromhex, segment.frontier))


class Replay:
    """One log as an export has it. What is wrong goes into the verdict; the rest is what later checks need."""

    def __init__(self, folder: Path, scope: Scope, keys: Sequence[VerifierKey], verdict: Verdict) -> None:
        self.roots: dict[int, bytes] = {}
        """By size, the heads that checkpoints kept from before are compared with."""
        self.seen = Frames()
        """The frames with an event."""
        self.oldest: int | None = None
        """The epoch of the first leaf that has one: later epochs began in the export."""
        self.stated: list[Run] = []
        """What segments call missing."""
        self.dropped: Counter[str] = Counter()
        """What the ingestor dropped before Kafka, by reason, as segments say."""
        self.policies: dict[str, str] = {}
        """By name@version, the SHA-256 that events and segments name."""
        self.unexplained: list[str] = []
        """The first frames that were masked, and whose events do not name a policy's text."""
        self.unexplained_count = 0
        self.detectors: set[tuple[str, str]] = set()
        """The names and weights that segments name."""
        self.verdict = verdict
        self._folder = folder
        self._scope = scope
        self._keys = keys
        self._signers: Counter[str] = Counter()
        self._buffer: list[tuple[int, int, str]] = []
        self._published = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._published.execute(
            "CREATE TABLE frames (epoch INT, sequence INT, sha256 TEXT, PRIMARY KEY (epoch, sequence)) WITHOUT ROWID"
        )

    def close(self) -> None:
        self._published.close()

    @property
    def published(self) -> int:
        (count,) = self._published.execute("SELECT count(*) FROM frames").fetchone()
        return int(count)

    def frames(self) -> Iterator[tuple[int, int, str]]:
        """Epoch, sequence and SHA-256 of the frames that events say were published, in that order."""
        yield from self._published.execute("SELECT epoch, sequence, sha256 FROM frames ORDER BY epoch, sequence")

    def _checkpoints(self) -> Iterator[tuple[str, Checkpoint, Segment]]:
        """In the order of sizes, up to the first that is broken."""
        try:
            names = sorted(os.listdir(self._folder / CHECKPOINTS))
        except OSError as error:
            self.verdict.fail("signatures", CHECKPOINTS, error.strerror or "cannot be read")
            return
        for name in names:
            path = f"{CHECKPOINTS}/{name}"
            try:
                note = read_file(self._folder / path, path, MAX_NOTE_BYTES)
                checkpoint, segment, key = open_checkpoint(note, self._keys)
                if path != export.checkpoint_path(checkpoint.size):
                    raise NoteError("its name is not its size")
                if segment.log != self._scope.log:
                    raise NoteError(f"of the log {segment.log}")
            except (ExportError, NoteError) as error:
                self.verdict.fail("signatures", path, f"{error}; what follows was not checked")
                return
            self._signers[f"{key.name}+{key.id.hex()}"] += 1
            yield path, checkpoint, segment

    def run(self, wanted: set[int]) -> None:
        """Read the log; ``wanted``: the sizes whose heads are kept in :attr:`roots`."""
        verdict, scope = self.verdict, self._scope
        tree = Range(scope.first)
        events = _Events(self._folder)
        sealed = ""
        for path, checkpoint, segment in self._checkpoints():
            before = self._before(segment, path)
            if before is None:
                break
            if not sealed and before.end == scope.first:
                tree = before
                self.roots[tree.end] = tree.root()
            if before.end != tree.end or before.hashes != tree.hashes:
                verdict.fail("heads", path, f"does not follow the checkpoint of {tree.end} leaves")
                break
            following = self._segment(tree, segment, events, path, wanted)
            if following is None:
                break
            tree, sealed = following, f"{segment.sealed_at:%Y-%m-%d %H:%M:%S} UTC"
            if tree.root() != checkpoint.root:
                verdict.fail("heads", path, "its root is not that of its subtrees")
                break
        if tree.end != scope.size:
            verdict.fail("heads", MANIFEST, f"says {scope.size} leaves; what could be checked ends at {tree.end}")
        if events.next() is not None:
            verdict.fail("heads", AUDIT, "goes on after the last checkpoint's leaves")
        elif events.problem:
            verdict.fail("events", AUDIT, events.problem)
        self._keep(flush=True)
        signers = ", ".join(f"{count} by {signer}" for signer, count in self._signers.items())
        verdict.facts.update(root=tree.root().hex() if sealed else None, events=tree.end - scope.first)
        verdict.say("signatures", signers)
        verdict.say("heads", f"leaves {scope.first} to {tree.end - 1}, the last ones sealed {sealed}")
        verdict.say("events", f"{tree.end - scope.first}, each the only one of its frame")
        verdict.say("counts", "outcomes, reasons and runs, segment by segment")
        if not has_frames(scope.log):
            verdict.say("events", f"{tree.end - scope.first} of no camera: their form is not looked at")
            verdict.say("counts", "none: a log without frames")
        if conflicting := verdict.facts.get("conflicting"):
            verdict.note("events", f"{conflicting} later events say otherwise than the first, which counts")

    def _before(self, segment: Segment, path: str) -> Range | None:
        """The leaves before a segment, as it covers them; None where it says two things."""
        try:
            before = frontier(segment)
        except ValueError as error:
            self.verdict.fail("heads", path, str(error))
            return None
        if before.root().hex() != segment.previous_root:
            self.verdict.fail("heads", path, "its frontier is not that of the root before it")
            return None
        return before

    def _segment(self, tree: Range, segment: Segment, events: _Events, path: str, wanted: set[int]) -> Range | None:
        """The tree with the segment's leaves as they were signed; None where they are not all there."""
        verdict, leaves, tally = self.verdict, Range(tree.end), Tally()
        ids: list[str] = []
        for index in range(segment.first, segment.size):
            if (line := events.next()) is None:
                verdict.fail("heads", AUDIT, f"ends before leaf {index} of {path}")
                return None
            leaves.append(leaf_hash(line))
            ids.append(self._event(line, index, tally))
            if index + 1 in wanted:
                self.roots[index + 1] = tree.joined(leaves).root()
        try:
            signed = Range(segment.first, segment.size, map(bytes.fromhex, segment.subtrees))
        except ValueError as error:
            verdict.fail("heads", path, str(error))
            return None
        places = cover(segment.first, segment.size)
        for (level, number), found, said in zip(places, leaves.hashes, signed.hashes, strict=True):
            if found != said:
                first, last = number << level, ((number + 1) << level) - 1
                frames = " to ".join(dict.fromkeys((ids[first - segment.first], ids[last - segment.first])))
                verdict.fail("heads", frames, f"leaves {first} to {last} are not those that were sealed in {path}")
        for check, where, problem in tally.differences(segment) if has_frames(segment.log) else ():
            verdict.fail(check, where, problem)
        for (key, applied), frame in tally.policies.items() if has_frames(segment.log) else ():
            if applied is not None:
                self._take_policy(key, applied, frame)
        self._take(segment, path)
        return tree.joined(signed)

    def _event(self, line: bytes, index: int, tally: Tally) -> str:
        """Look at one leaf; what names it."""
        if not has_frames(self._scope.log):
            return f"leaf {index}"
        try:
            event = AuditEvent.from_message(line)
        except EnvelopeError as error:
            self.verdict.fail("events", f"leaf {index}", str(error))
            return f"leaf {index}"
        tally.add(event)
        if event.outcome is Outcome.MASKED and (event.policy_version is None or event.policy_sha256 is None):
            self.unexplained_count += 1
            self.unexplained += [event.id] * (self.unexplained_count <= 20)
        frame = event.frame
        if frame is None or frame.camera != self._scope.log or event.id != str(frame):
            self.verdict.fail("events", f"leaf {index}", f"is not of a frame of {self._scope.log}")
        elif not export.has_place(frame.epoch, frame.sequence):
            self.verdict.fail("events", str(frame), "its epoch or sequence is out of range")
        elif not self._add(frame.epoch, frame.sequence):
            self.verdict.fail("events", str(frame), f"a second event, leaf {index}")
        elif event.outcome is not Outcome.DROPPED and event.output_sha256 is not None:
            self._buffer.append((frame.epoch, frame.sequence, event.output_sha256))
            self._keep()
        return event.id

    def _add(self, epoch: int, sequence: int) -> bool:
        if self.oldest is None:
            self.oldest = epoch
        return self.seen.add(epoch, sequence)

    def _keep(self, *, flush: bool = False) -> None:
        if flush or len(self._buffer) >= AT_ONCE:
            self._published.executemany("INSERT INTO frames VALUES (?, ?, ?)", self._buffer)
            self._buffer.clear()

    def _take(self, segment: Segment, path: str) -> None:
        """What the segment states beyond its events."""
        for key, digest in segment.policies.items():
            self._take_policy(key, digest, path)
        self.detectors.update((name, weights) for name, all_ in segment.detectors.items() for weights in all_)
        self.stated += segment.missing
        self.dropped.update({str(reason): count for reason, count in segment.ingest_dropped.items()})
        for name, count in (("duplicates", segment.duplicates), ("conflicting", segment.conflicting)):
            self.verdict.facts[name] = self.verdict.facts.get(name, 0) + count

    def _take_policy(self, key: str, digest: str, where: str) -> None:
        if self.policies.setdefault(key, digest) != digest:
            self.verdict.fail("policies", where, f"{key} is another policy than before: {digest}")


class _Events:
    """The lines of the audit events, up to the first that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.problem = ""
        self._lines = read_lines(folder / AUDIT, AUDIT)

    def next(self) -> bytes | None:
        try:
            line = next(self._lines, None)
            return None if line is None else export.leaf(line)
        except (ExportError, EnvelopeError) as error:
            self.problem = str(error)
            return None
