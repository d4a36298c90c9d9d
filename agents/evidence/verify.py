"""``sfumato verify``: check an exported folder, offline, without trust in whoever made it.

Nothing here speaks to Kafka or to a network. Whatever is wrong with a file is a failure in the verdict, never an
exception. Memory does not grow with the export, but with the number of gaps in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from sfumato.agents.evidence.inventory import ExportError, compare, read_file, read_lines, read_manifest
from sfumato.agents.evidence.replay import Replay, open_signed
from sfumato.agents.evidence.tally import Frames
from sfumato.agents.evidence.verdict import Verdict
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, Checkpoint, NoteError, VerifierKey
from sfumato.agents.ledger.tree import consistent
from sfumato.models import weights
from sfumato.schemas import export
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.export import AUDIT, CHECKPOINTS, COPIES, KEY, MANIFEST, POLICIES, WEIGHTS, Scope
from sfumato.schemas.policy import digest as sha256_of
from sfumato.schemas.segment import Run, has_frames

MAX_KEYS_BYTES = 100_000
OWN_KEY = (
    "no --key: checked with the folder's own key, which proves only that the folder agrees with itself; "
    "get the key from the operator by another way, and give it"
)


def verify(
    folder: Path, keys: Sequence[VerifierKey] = (), since: Iterable[Path] = (), models: Iterable[Path] = ()
) -> Verdict:
    """Check the folder against the keys, or its own where none are given. ``since``: checkpoints kept from before;
    ``models``: files of weights that are known besides this release's. Raises :class:`ExportError` where one of
    ``models`` cannot be read."""
    verdict = Verdict()
    try:
        scope, listed = read_manifest(folder)
    except ExportError as error:
        verdict.fail("manifest", MANIFEST, str(error))
        return verdict
    verdict.facts.update(log=scope.log, first=scope.first, size=scope.size, frames=scope.frames)
    known = {pinned.sha256: pinned.name for pinned in weights.WEIGHTS.values()}
    given = {digest_of(path): None for path in models}
    keys = _keys(folder, keys, verdict)
    if not keys:
        return verdict
    with closing(Replay(folder, scope, keys, verdict)) as replay:
        verification = Verification(folder, scope, verdict, replay)
        kept = verification.kept(keys, since)
        replay.run({checkpoint.size for _, checkpoint in kept})
        verification.since(kept)
        verification.missing()
        verification.policies()
        verification.weights({**given, **known})
        verification.files(listed)
        verification.copies()
    return verdict


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; :class:`ExportError` where it cannot be read."""
    try:
        return weights.sha256(path)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from None


def read_keys(text: str) -> tuple[VerifierKey, ...]:
    """Verifier keys, one a line. Raises :class:`NoteError`."""
    keys = tuple(VerifierKey.parse(line) for line in text.splitlines() if line.strip())
    if not keys:
        raise NoteError("verifier key: there is none")
    return keys


def _keys(folder: Path, given: Sequence[VerifierKey], verdict: Verdict) -> Sequence[VerifierKey]:
    """The keys to check with."""
    verdict.say("key", ", ".join(map(str, given)))
    try:
        text = read_file(folder / KEY, KEY, MAX_KEYS_BYTES).decode(errors="replace")
        own = read_keys(text)
        if text != "".join(f"{key}\n" for key in own):
            raise NoteError("verifier key: not spelt as keys are")
    except (ExportError, NoteError) as error:
        verdict.fail("key", KEY, str(error))
        return given
    if not given:
        verdict.say("key", ", ".join(map(str, own)))
        verdict.note("key", OWN_KEY)
        return own
    for key in set(own) - set(given):
        verdict.fail("key", KEY, f"{key} is not a key that was given")
    return given


class Verification:
    """What is checked besides the log itself."""

    def __init__(self, folder: Path, scope: Scope, verdict: Verdict, replay: Replay) -> None:
        self.verdict = verdict
        self._folder = folder
        self._scope = scope
        self._replay = replay

    def kept(self, keys: Sequence[VerifierKey], since: Iterable[Path]) -> list[tuple[str, Checkpoint]]:
        """The checkpoints from before, by their files' names."""
        kept = []
        for path in since:
            try:
                note = read_file(path, path.name, MAX_NOTE_BYTES).decode(errors="replace")
                checkpoint, key = open_signed(note, keys)
                if checkpoint.origin != f"{key.name}/{self._scope.log}":
                    raise NoteError(f"checkpoint: of {checkpoint.origin}, not of {key.name}/{self._scope.log}")
                kept.append((path.name, checkpoint))
            except (ExportError, NoteError) as error:
                self.verdict.fail("since", path.name, str(error))
        return kept

    def since(self, kept: list[tuple[str, Checkpoint]]) -> None:
        verdict, scope = self.verdict, self._scope
        for name, checkpoint in kept:
            verdict.say("since", f"the checkpoint of {checkpoint.size} leaves is a beginning of this log")
            if checkpoint.size in self._replay.roots:
                if self._replay.roots[checkpoint.size] != checkpoint.root:
                    verdict.fail("since", name, f"the log's first {checkpoint.size} leaves were rewritten since")
            elif checkpoint.size > scope.first:
                verdict.fail("since", name, f"has {checkpoint.size} leaves, and the export was not checked so far")
            elif checkpoint.size and not self._proven(checkpoint):
                remedy = "ask for an export with --since this checkpoint; or the log was rewritten"
                verdict.fail("since", name, f"{export.consistency_path(checkpoint.size)} does not prove it; {remedy}")

    def _proven(self, checkpoint: Checkpoint) -> bool:
        proof, root = self._proof(export.consistency_path(checkpoint.size)), self._replay.roots.get(self._scope.first)
        if proof is None or root is None:
            return False
        hashes = [bytes.fromhex(hash) for hash in proof.path]
        return consistent(checkpoint.size, self._scope.first, hashes, checkpoint.root, root)

    def _proof(self, path: str) -> export.Consistency | None:
        """None where it cannot be read."""
        try:
            return export.parse(export.Consistency, read_file(self._folder / path, path).removesuffix(b"\n"))
        except (ExportError, EnvelopeError):
            return None

    def missing(self) -> None:
        """Say which frames have no event: what segments state, and gaps that no segment has stated (yet)."""
        verdict, seen, stated = self.verdict, self._replay.seen, Frames(self._replay.stated)
        missing = [part for run in stated.runs() for part in seen.absent(run)]
        unstated = [part for gap in seen.gaps() for part in stated.absent(gap)]
        before: list[Run] = []
        for gap in seen.before():
            began = self._scope.first == 0 or self._replay.oldest is None or gap.epoch > self._replay.oldest
            (unstated if began else before).extend(stated.absent(gap))
        earlier = f"; before what was exported: {self._listed(before)}" if before else ""
        verdict.say("missing", f"none{earlier}")
        verdict.facts["before"] = [run.model_dump() for run in before]
        for name, what, runs in (
            ("missing", "stated in a segment", missing),
            ("unstated", "before or between others, stated in no segment of this export", unstated),
        ):
            verdict.facts[name] = [run.model_dump() for run in runs]
            if runs:
                verdict.note("missing", f"{what}: {self._listed(runs)}")
                verdict.say("missing", f"nothing here says what became of them{earlier}")
        verdict.facts["ingest_dropped"] = dict(self._replay.dropped)
        if self._replay.dropped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self._replay.dropped.items()))
            verdict.note(
                "missing", f"{self._replay.dropped.total()} dropped before Kafka, as the ingestor reported: {reasons}"
            )

    def _listed(self, runs: list[Run]) -> str:
        count = sum(run.last - run.first + 1 for run in runs)
        named = "; ".join(_named(self._scope.log, run) for run in runs[:20])
        return f"{count} ({named}{'; …' * (len(runs) > 20)})"

    def policies(self) -> None:
        verdict, left = self.verdict, dict(self._replay.policies)
        verdict.say("policies", f"{len(left)}, as events and segments name them")
        if unexplained := self._replay.unexplained_count:
            first = "; ".join(self._replay.unexplained)
            verdict.note(
                "policies", f"{unexplained} masked frames whose event names no policy, or not its text: {first}"
            )
        try:
            for number, line in enumerate(read_lines(self._folder / POLICIES, POLICIES), 1):
                policy = export.parse(export.PolicyVersion, line)
                digest = left.pop(policy.key, None)
                if digest is None:
                    verdict.fail("policies", f"{POLICIES}, line {number}", "nothing names it, or it is there twice")
                elif sha256_of(policy.value.encode(errors="surrogatepass")) != digest:
                    verdict.fail("policies", policy.key, "its SHA-256 is not the one that events and segments name")
        except (ExportError, EnvelopeError) as error:
            verdict.fail("policies", POLICIES, str(error))
        for key in left:
            verdict.fail("policies", key, f"frames were masked by it, and it is not in {POLICIES}")

    def weights(self, known: Mapping[str, str | None]) -> None:
        verdict = self.verdict
        verdict.say("weights", f"{len(self._replay.detectors)}")
        expected = [
            export.Weight(detector=name, sha256=weights, name=known.get(weights))
            for name, weights in sorted(self._replay.detectors)
        ]
        try:
            line = read_file(self._folder / WEIGHTS, WEIGHTS)
            listed = export.parse(export.Weights, line.removesuffix(b"\n")).weights
            if not line.endswith(b"\n") or list(listed) != expected:
                verdict.fail("weights", WEIGHTS, "not the models that the segments name, as this release knows them")
        except (ExportError, EnvelopeError) as error:
            verdict.fail("weights", WEIGHTS, str(error))
        for weight in expected:
            if weight.sha256 not in known:
                remedy = "ask the operator for the file, and give it with --model"
                verdict.fail("weights", weight.detector, f"unknown weights {weight.sha256}; {remedy}")

    def files(self, listed: Iterator[export.File]) -> None:
        """Every file as the manifest lists it, and every frame as its event names it."""
        verdict, scope = self.verdict, self._scope
        counted = bytes_ = 0
        events = self._replay.frames()
        event = next(events, None)
        try:
            for file, digest in compare(
                self._folder, listed, lambda path, problem: verdict.fail("manifest", path, problem)
            ):
                counted, bytes_ = counted + 1, bytes_ + file.size
                if not file.path.startswith(f"{export.FRAMES}/"):
                    self._expected(file.path)
                    continue
                frame = export.frame_of(file.path)
                if frame is None or frame.camera != scope.log or not scope.frames:
                    verdict.fail("frames", file.path, "not named as a frame of this camera, or exported without frames")
                    continue
                while event is not None and event[:2] < frame[1:]:
                    self._without_frame(event)
                    event = next(events, None)
                if event is None or event[:2] != frame[1:]:
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
        published = self._replay.published
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
        known = path in {AUDIT, POLICIES, WEIGHTS, KEY, COPIES} or path.startswith(f"{CHECKPOINTS}/")
        if path.startswith(f"{export.CONSISTENCY}/"):
            proof = self._proof(path)
            known = proof is not None and export.consistency_path(proof.first) == path
        if not known:
            self.verdict.fail("manifest", path, "no file of an export")

    def copies(self) -> None:
        other = unnamed = 0
        searched: export.Searched | None = None
        try:
            lines = read_lines(self._folder / COPIES, COPIES)
            if (first := next(lines, None)) is not None:
                searched = export.parse(export.Searched, first)
            for line in lines:
                copy = export.parse(export.Copy, line)
                other, unnamed = other + copy.event, unnamed + (not copy.event)
        except (ExportError, EnvelopeError) as error:
            self.verdict.fail("copies", COPIES, str(error))
        self.verdict.facts["copies"] = other + unnamed
        self.verdict.say("copies", f"none among {_told(searched)}" if searched else "not looked for")
        if not has_frames(self._scope.log):
            self.verdict.say("copies", "none: a log without frames")
        if other + unnamed:
            counts = f"{other} whose frame's event names other bytes, {unnamed} without an event"
            self.verdict.say("copies", f"listed in {COPIES}")
            self.verdict.note("copies", f"published besides, among {_told(searched)}: {counts}")
        elif has_frames(self._scope.log) and searched is None:
            self.verdict.note("copies", "nobody looked for them: ask for an export with frames")


def _told(searched: export.Searched | None) -> str:
    """What the exporter looked at, as it says."""
    if searched is None:
        return "what nobody says was looked at"
    times = " to ".join(f"{at:%Y-%m-%d %H:%M:%S}" for at in (searched.begin, searched.end))
    return f"{searched.messages} messages of {searched.partitions} partitions, {times} UTC"


def _named(log: str, run: Run) -> str:
    return f"{log}/{run.epoch}/{run.first}{f' to {run.last}' if run.last != run.first else ''}"
