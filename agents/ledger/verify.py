"""``sfumato verify``: check an exported folder, offline, without trust in whoever made it.

Nothing here speaks to Kafka or to a network. Whatever is wrong with a file is a failure in the verdict, never an
exception. Memory does not grow with the export, but with the number of gaps in it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from sfumato.agents.ledger.inventory import ExportError, compare, read_file, read_lines, read_manifest
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, Checkpoint, NoteError, VerifierKey, open_note
from sfumato.agents.ledger.tally import Sequences, Tally
from sfumato.agents.ledger.tree import Range, consistent, cover, leaf_hash
from sfumato.agents.ledger.verdict import Verdict
from sfumato.models.weights import WEIGHTS as PINNED
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.export import AUDIT, CHECKPOINTS, COPIES, FRONTIER, KEY, MANIFEST, POLICIES, WEIGHTS, Scope
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.segment import Segment

MAX_KEY_BYTES = 4096
AT_ONCE = 10_000
"""Published frames that are written to the temporary database at once."""
OWN_KEY = (
    "no --key: checked with the folder's own key, which proves only that the folder agrees with itself; "
    "get the key from the operator by another way, and give it"
)


def verify(
    folder: Path, key: VerifierKey | None, since: Sequence[tuple[str, str]] = (), models: Iterable[Path] = ()
) -> Verdict:
    """Check the folder against the key, or its own where None is given; ``since``: name and content of checkpoints kept
    from before; ``models``: files of weights that are known besides this release's. Raises :class:`ExportError` where
    a model cannot be read."""
    known = {weight.sha256: weight.name for weight in PINNED.values()}
    own = {hashlib.sha256(read_file(path, str(path), 1 << 32)).hexdigest() for path in models}
    verification = Verification(folder, key, since, {**dict.fromkeys(own, None), **known})
    with closing(verification):
        verification.run()
    return verification.verdict


def open_checkpoint(note: bytes, key: VerifierKey) -> tuple[Checkpoint, Segment]:
    """A sealed segment and its log's head. Raises :class:`NoteError` where it is not signed by the key, or says two
    things."""
    try:
        checkpoint = Checkpoint.parse(open_note(note.decode(), key))
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
    return checkpoint, segment


class Verification:
    """One run over one folder."""

    def __init__(
        self,
        folder: Path,
        key: VerifierKey | None,
        since: Sequence[tuple[str, str]],
        known: Mapping[str, str | None],
    ) -> None:
        self.verdict = Verdict()
        self._folder = folder
        self._key = key
        self._since = since
        self._known = known
        self._scope = Scope(log="_", first=0, size=0, frames=True)
        self._seen = Sequences()
        self._stated = Sequences()
        self._policies: dict[str, str] = {}
        self._detectors: set[tuple[str, str]] = set()
        self._roots: dict[int, bytes] = {}
        """By size, the heads that checkpoints kept from before are compared with."""
        self._buffer: list[tuple[int, int, str]] = []
        self._published = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._published.execute("CREATE TABLE frames (epoch INT, sequence INT, sha256 TEXT, PRIMARY KEY (epoch, sequence)) WITHOUT ROWID")

    def close(self) -> None:
        self._published.close()

    def run(self) -> None:
        verdict = self.verdict
        try:
            self._scope, listed = read_manifest(self._folder)
        except ExportError as error:
            verdict.fail("manifest", MANIFEST, str(error))
            return
        scope = self._scope
        verdict.facts.update(log=scope.log, first=scope.first, size=scope.size, frames=scope.frames)
        key = self._open_key()
        if key is not None:
            kept = self._kept(key)
            self._heads(key, {checkpoint.size for _, checkpoint in kept})
            self._compare_kept(kept)
            self._missing()
            self._check_policies()
            self._check_weights()
        self._files(listed, judged=key is not None)
        self._copies()

    # The key

    def _open_key(self) -> VerifierKey | None:
        try:
            text = read_file(self._folder / KEY, KEY, MAX_KEY_BYTES).decode(errors="replace")
            own = VerifierKey.parse(text)
            if text != f"{own}\n":
                raise NoteError("verifier key: not spelt as a key is")
        except (ExportError, NoteError) as error:
            self.verdict.fail("key", KEY, str(error))
            return self._key
        key = self._key or own
        self.verdict.say("key", str(key))
        if self._key is None:
            self.verdict.note("key", OWN_KEY)
        elif own != key:
            self.verdict.fail("key", KEY, "not the key that was given")
        return key

    # Checkpoints, leaves and heads

    def _checkpoints(self, key: VerifierKey) -> Iterator[tuple[str, Checkpoint, Segment]]:
        """In the order of sizes, up to the first that is broken."""
        try:
            names = sorted(os.listdir(self._folder / CHECKPOINTS))
        except OSError as error:
            self.verdict.fail("signatures", CHECKPOINTS, error.strerror or "cannot be read")
            return
        for number, name in enumerate(names):
            path = f"{CHECKPOINTS}/{name}"
            try:
                note = read_file(self._folder / path, path, MAX_NOTE_BYTES)
                checkpoint, segment = open_checkpoint(note, key)
                if path != export.checkpoint_path(checkpoint.size):
                    raise NoteError("its name is not its size")
                if segment.log != self._scope.log:
                    raise NoteError(f"of the log {segment.log}")
            except (ExportError, NoteError) as error:
                self.verdict.fail("signatures", path, f"{error}; what follows was not checked")
                return
            self.verdict.say("signatures", f"{number + 1}, each signed by {key.name}")
            yield path, checkpoint, segment

    def _heads(self, key: VerifierKey, wanted: set[int]) -> None:
        verdict, scope = self.verdict, self._scope
        tree = self._frontier()
        if tree is None:
            return
        self._roots[tree.end] = tree.root()
        checkpoints = self._checkpoints(key)
        if scope.first:
            path, before, _ = next(checkpoints, (CHECKPOINTS, None, None))
            if before is None or before.size != scope.first or before.root != tree.root():
                verdict.fail("heads", path, f"not the checkpoint of the {scope.first} leaves before the export's")
        events = _Events(self._folder)
        sealed = ""
        for path, checkpoint, segment in checkpoints:
            if segment.first != tree.end or segment.previous_root != tree.root().hex():
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
            verdict.fail("heads", MANIFEST, f"{scope.size} leaves are listed, the checkpoints go to {tree.end}")
        if events.next() is not None:
            verdict.fail("heads", AUDIT, "goes on after the last checkpoint's leaves")
        elif events.problem:
            verdict.fail("events", AUDIT, events.problem)
        self._keep(flush=True)
        verdict.facts.update(root=tree.root().hex(), events=tree.end - scope.first)
        verdict.say("heads", f"{scope.first} to {tree.end} leaves, the last one sealed {sealed}")
        verdict.say("events", f"{tree.end - scope.first}, each one the only one of its frame")
        verdict.say("counts", "outcomes, reasons and runs of each segment")

    def _frontier(self) -> Range | None:
        try:
            line = read_file(self._folder / FRONTIER, FRONTIER)
            frontier = export.parse(export.Frontier, line.removesuffix(b"\n"))
            if frontier.size != self._scope.first or not line.endswith(b"\n"):
                raise ValueError("not of the leaves before the export's first")
            return Range(0, frontier.size, map(bytes.fromhex, frontier.hashes))
        except (ExportError, ValueError) as error:
            self.verdict.fail("heads", FRONTIER, str(error))
            return None

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
                self._roots[index + 1] = tree.joined(leaves).root()
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
        for check, where, problem in tally.differences(segment):
            verdict.fail(check, where, problem)
        self._take(segment, path)
        return tree.joined(signed)

    def _event(self, line: bytes, index: int, tally: Tally) -> str:
        """Look at one leaf; what names it."""
        try:
            event = AuditEvent.from_message(line)
        except EnvelopeError as error:
            self.verdict.fail("events", f"leaf {index}", str(error))
            return f"leaf {index}"
        tally.add(event)
        frame = event.frame
        if frame is None or frame.camera != self._scope.log or event.id != str(frame) or min(frame[1:]) < 0:
            self.verdict.fail("events", f"leaf {index}", f"is not of a frame of {self._scope.log}")
        elif not self._seen.add(frame.epoch, frame.sequence):
            self.verdict.fail("events", str(frame), f"a second event, leaf {index}")
        elif frame.epoch > export.LARGEST_EPOCH or frame.sequence > export.LARGEST_SEQUENCE:
            self.verdict.fail("events", str(frame), "its epoch or sequence is too large")
        elif event.outcome is not Outcome.DROPPED and event.output_sha256 is not None:
            self._buffer.append((frame.epoch, frame.sequence, event.output_sha256))
            self._keep()
        return event.id

    def _keep(self, *, flush: bool = False) -> None:
        if flush or len(self._buffer) >= AT_ONCE:
            self._published.executemany("INSERT INTO frames VALUES (?, ?, ?)", self._buffer)
            self._buffer.clear()

    def _take(self, segment: Segment, path: str) -> None:
        """What the segment states beyond its events."""
        for key, digest in segment.policies.items():
            if self._policies.setdefault(key, digest) != digest:
                self.verdict.fail("policies", path, f"{key} is another policy than in a segment before")
        self._detectors.update((name, weights) for name, all_ in segment.detectors.items() for weights in all_)
        stated = self.verdict.facts.setdefault("missing", [])
        stated += [missing.model_dump(mode="json") for missing in segment.missing]
        self.verdict.facts["duplicates"] = self.verdict.facts.get("duplicates", 0) + segment.duplicates
        self.verdict.facts["conflicting"] = self.verdict.facts.get("conflicting", 0) + segment.conflicting
        for conflict in segment.conflicts:
            frame = FrameId(segment.log, conflict.epoch, conflict.sequence)
            self.verdict.note("events", f"{frame}: {conflict.first} counts; a later event says {conflict.later}")

    # Checkpoints from before

    def _kept(self, key: VerifierKey) -> list[tuple[str, Checkpoint]]:
        kept = []
        for name, note in self._since:
            try:
                checkpoint = Checkpoint.parse(open_note(note, key))
                if checkpoint.origin != f"{key.name}/{self._scope.log}":
                    raise NoteError(f"checkpoint: of {checkpoint.origin}, not of {key.name}/{self._scope.log}")
                kept.append((name, checkpoint))
            except NoteError as error:
                self.verdict.fail("since", name, str(error))
        return kept

    def _compare_kept(self, kept: list[tuple[str, Checkpoint]]) -> None:
        verdict, scope = self.verdict, self._scope
        for name, checkpoint in kept:
            verdict.say("since", f"the checkpoint of {checkpoint.size} leaves is a beginning of this log")
            if checkpoint.size in self._roots:
                if self._roots[checkpoint.size] != checkpoint.root:
                    verdict.fail("since", name, f"the log's first {checkpoint.size} leaves were rewritten since")
            elif checkpoint.size > scope.first:
                verdict.fail("since", name, f"has {checkpoint.size} leaves, and the export was not checked so far")
            elif checkpoint.size and not self._proven(checkpoint):
                path = export.consistency_path(checkpoint.size)
                verdict.fail("since", name, f"{path} does not show that it is a beginning of this log; "
                             "ask for an export with --since this checkpoint, or the log was rewritten")  # fmt: skip

    def _proven(self, checkpoint: Checkpoint) -> bool:
        path, root = export.consistency_path(checkpoint.size), self._roots.get(self._scope.first)
        try:
            proof = export.parse(export.Consistency, read_file(self._folder / path, path).removesuffix(b"\n"))
        except (ExportError, EnvelopeError):
            return False
        hashes = [bytes.fromhex(hash) for hash in proof.path]
        return root is not None and consistent(checkpoint.size, self._scope.first, hashes, checkpoint.root, root)

    # What the events refer to

    def _missing(self) -> None:
        """Say which frames have no event: what segments state, and gaps that no segment has stated (yet)."""
        verdict = self.verdict
        stated: list[dict[str, object]] = verdict.facts.setdefault("missing", [])
        known = Sequences(export_run for export_run in _runs(stated))
        unstated = [
            gap.model_dump() for gap in self._seen.gaps() if not all(known.has(gap.epoch, n) for n in (gap.first, gap.last))
        ]
        verdict.facts["unstated_gaps"] = unstated
        verdict.say("missing", "none")
        for what, runs in (("sealed as missing", stated), ("in no segment of this export", unstated)):
            count = sum(int(str(run["last"])) - int(str(run["first"])) + 1 for run in runs)
            if count:
                named = "; ".join(_named(self._scope.log, run) for run in runs[:20])
                verdict.note("missing", f"{count} {what}: {named}{'; …' * (len(runs) > 20)}")
                verdict.say("missing", "nobody can say from this export what they showed")

    def _check_policies(self) -> None:
        verdict, left = self.verdict, dict(self._policies)
        verdict.say("policies", f"{len(left)}, as their segments name them")
        try:
            for number, line in enumerate(read_lines(self._folder / POLICIES, POLICIES), 1):
                policy = export.parse(export.PolicyVersion, line)
                digest = left.pop(policy.key, None)
                if digest is None:
                    verdict.fail("policies", f"{POLICIES}, line {number}", "no segment names it, or it is there twice")
                elif hashlib.sha256(policy.value.encode(errors="surrogatepass")).hexdigest() != digest:
                    verdict.fail("policies", policy.key, "its SHA-256 is not the one that its segment names")
        except (ExportError, EnvelopeError) as error:
            verdict.fail("policies", POLICIES, str(error))
        for key in left:
            verdict.fail("policies", key, f"frames were masked by it, and it is not in {POLICIES}")

    def _check_weights(self) -> None:
        verdict = self.verdict
        verdict.say("weights", f"{len(self._detectors)}")
        expected = [
            export.Weight(detector=name, sha256=weights, name=self._known.get(weights))
            for name, weights in sorted(self._detectors)
        ]
        try:
            line = read_file(self._folder / WEIGHTS, WEIGHTS)
            listed = export.parse(export.Weights, line.removesuffix(b"\n")).weights
            if not line.endswith(b"\n") or list(listed) != expected:
                verdict.fail("weights", WEIGHTS, "not the models that the segments name, as this release knows them")
        except (ExportError, EnvelopeError) as error:
            verdict.fail("weights", WEIGHTS, str(error))
        for weight in expected:
            if weight.sha256 not in self._known:
                verdict.fail("weights", weight.detector, f"unknown weights {weight.sha256}; ask the operator for the "
                             "file, and give it with --model")  # fmt: skip

    # The files

    def _files(self, listed: Iterator[export.File], *, judged: bool) -> None:
        """Every file as the manifest lists it, and every frame as its event names it."""
        verdict, scope = self.verdict, self._scope
        counted = bytes_ = 0
        events = iter(self._published.execute("SELECT epoch, sequence, sha256 FROM frames ORDER BY epoch, sequence"))
        event = next(events, None)
        try:
            for file, digest in compare(self._folder, listed, lambda path, problem: verdict.fail("manifest", path, problem)):
                counted, bytes_ = counted + 1, bytes_ + file.size
                if not file.path.startswith(f"{export.FRAMES}/"):
                    self._expected(file.path)
                    continue
                frame = export.frame_of(file.path)
                if frame is None or frame.camera != scope.log:
                    verdict.fail("frames", file.path, "not named as a frame of this camera")
                    continue
                while event is not None and event[:2] < frame[1:]:
                    self._without_frame(event)
                    event = next(events, None)
                if event is None or event[:2] != frame[1:]:
                    if judged:
                        verdict.fail("frames", file.path, "a frame without an audit event that says it was published")
                    continue
                if event[2] != digest:
                    verdict.fail("frames", str(frame), f"{file.path} is not what the audit event names by its SHA-256")
                event = next(events, None)
        except ExportError as error:
            verdict.fail("manifest", MANIFEST, str(error))
        while event is not None:
            self._without_frame(event)
            event = next(events, None)
        self._say_files(counted, bytes_)

    def _say_files(self, counted: int, size: int) -> None:
        verdict = self.verdict
        (published,) = self._published.execute("SELECT count(*) FROM frames").fetchone()
        verdict.facts.update(published=published, files=counted, bytes=size)
        verdict.say("manifest", f"{counted} files, {size} bytes")
        verdict.say("frames", f"{published}, each with the SHA-256 of its event")
        if not self._scope.frames:
            verdict.say("frames", "")
            verdict.note("frames", f"exported without frames: {published} published ones were not compared")

    def _without_frame(self, event: tuple[int, int, str]) -> None:
        if self._scope.frames:
            frame = FrameId(self._scope.log, event[0], event[1])
            self.verdict.fail("frames", str(frame), "published, and its file is not here as it was exported")

    def _expected(self, path: str) -> None:
        top = {AUDIT, POLICIES, WEIGHTS, KEY, FRONTIER, COPIES}
        if path not in top and path.split("/")[0] not in (CHECKPOINTS, export.CONSISTENCY):
            self.verdict.fail("manifest", path, "no file of an export")

    def _copies(self) -> None:
        other = unnamed = 0
        try:
            for line in read_lines(self._folder / COPIES, COPIES):
                copy = export.parse(export.Copy, line)
                other, unnamed = other + copy.event, unnamed + (not copy.event)
        except (ExportError, EnvelopeError) as error:
            self.verdict.fail("copies", COPIES, str(error))
        self.verdict.say("copies", "none")
        self.verdict.facts["copies"] = other + unnamed
        if other + unnamed:
            self.verdict.say("copies", f"listed in {COPIES}")
            self.verdict.note("copies", f"published besides: {other} whose frame's event names other bytes, "
                              f"{unnamed} without an event in this export")  # fmt: skip


class _Events:
    """The lines of the audit events, up to the first that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.problem = ""
        self._lines = read_lines(folder / AUDIT, AUDIT)

    def next(self) -> bytes | None:
        try:
            return next(self._lines, None)
        except ExportError as error:
            self.problem = str(error)
            return None


def _runs(stated: list[dict[str, object]]) -> Iterator[export.Run]:
    for run in stated:
        yield export.Run.model_validate({name: run[name] for name in ("epoch", "first", "last")})


def _named(log: str, run: dict[str, object]) -> str:
    last = f" to {run['last']}" if run["last"] != run["first"] else ""
    reason = f" ({run['reason']})" if run.get("reason") else ""
    return f"{log}/{run['epoch']}/{run['first']}{last}{reason}"
