"""``sfumato export``: what a stranger needs to check a camera's frames, in one folder (docs/verify.md).

It reads ``ledger``, ``audit``, ``policies`` and ``frames.anonymized``, never ``frames.raw``. Memory does not grow with
what is exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfumato.agents import messages
from sfumato.agents.evidence.bundle import Bundle
from sfumato.agents.evidence.chain import Chain, Leaf, Leaves, Sealed
from sfumato.agents.evidence.inventory import ExportError, read_file
from sfumato.agents.evidence.published import Published
from sfumato.agents.evidence.reading import Reading
from sfumato.agents.evidence.replay import open_signed
from sfumato.agents.ledger.account import REMEMBERED
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, NoteError, VerifierKey
from sfumato.agents.settings import Settings
from sfumato.models import weights
from sfumato.schemas import export as files
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.policy import digest
from sfumato.schemas.segment import Run, has_frames
from sfumato.schemas.topics import POLICIES


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
        names; ``without_event``: those of them whose frame has none at all (the first 100)."""
        return {
            "first": self.first,
            "size": self.size,
            "segments": self.segments,
            "published": self.published,
            "frames": self.frames,
            "missing_frames": self.published - self.frames if self.with_frames else None,
            "other_copies": self.copies,
            "without_event": self.unnamed,
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
        self._published = Published(settings, wanted.camera, bundle)
        self._policies: set[tuple[str, str]] = set()
        self._detectors: set[tuple[str, str]] = set()
        self._keys: dict[VerifierKey, None] = {}

    def close(self) -> None:
        self._published.close()

    def write(self, keys: Sequence[VerifierKey]) -> None:
        first = self._begin()
        self._write_log(first)
        self._write_consistency(keys)
        self._write_policies()
        self._write_weights()
        self._write_frames()
        self._bundle.put(files.KEY, "".join(f"{key}\n" for key in self._keys).encode())
        account = self.account
        scope = files.Scope(
            log=self._chain.log,
            first=account.first,
            size=account.size,
            frames=self._wanted.frames,
        )
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
            for sealed in self._chain.sealed(self._earlier(first)):
                if sealed.segment.first < first:
                    self._leaves.remember(sealed.segment)
                    continue
                leaves = self._leaves.of(sealed.segment)
                if over and until is not None and not self._began_before(leaves, until):
                    break
                for leaf in leaves:
                    lines.put(files.leaf_line(leaf.value))
                    self._take_event(leaf)
                self._put_checkpoint(sealed)
                self._take_segment(sealed)
                over = until is not None and sealed.segment.sealed_at >= until
        account.published = self._published.wanted

    def _earlier(self, first: int) -> int:
        """The leaf from which on to read: of a log without frames what came before says what is a duplicate. Twice as
        many as the ledger remembers: one that is not known here passes for a leaf, and must be forgotten as late."""
        if has_frames(self._chain.log):
            return first
        return max((begin for begin, _, _ in self._chain.times() if begin + 2 * REMEMBERED <= first), default=0)

    def _began_before(self, leaves: list[Leaf], until: datetime) -> bool:
        """Whether a segment that was sealed later holds events from before: the ledger lagged."""
        try:
            at = AuditEvent.from_message(leaves[0].value).audited_at
        except EnvelopeError:
            return False
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) < until

    def _put_checkpoint(self, sealed: Sealed) -> None:
        self._keys.setdefault(sealed.key)
        self._bundle.put(files.checkpoint_path(sealed.checkpoint.size), sealed.note)

    def _take_segment(self, sealed: Sealed) -> None:
        segment = sealed.segment
        self.account.segments += 1
        self.account.size = segment.size
        self._policies.update(segment.policies.items())
        self._detectors.update((name, digest) for name, all_ in segment.detectors.items() for digest in all_)
        self._published.take_source(segment.source)

    def _take_event(self, leaf: Leaf) -> None:
        self._published.take_leaf(leaf.written)
        try:
            event = AuditEvent.from_message(leaf.value)
        except EnvelopeError:
            return  # exported all the same: `sfumato verify` names it
        if has_frames(self._chain.log):
            self._published.take_event(event)
            if event.policy_version is not None and event.policy_sha256 is not None:
                self._policies.add((f"{event.policy or event.camera}@{event.policy_version}", event.policy_sha256))

    def _write_consistency(self, keys: Sequence[VerifierKey]) -> None:
        first = self.account.first
        proven: set[int] = set()
        for path in self._wanted.kept:
            try:
                checkpoint, key = open_signed(read_file(path, path.name, MAX_NOTE_BYTES).decode(errors="replace"), keys)
            except NoteError as error:
                raise ExportError(f"{path}: {error}") from None
            if checkpoint.origin != f"{key.name}/{self._chain.log}":
                raise ExportError(f"{path}: of {checkpoint.origin}, not of {self._chain.log}")
            if 0 < checkpoint.size < first and checkpoint.size not in proven:
                proven.add(checkpoint.size)
                proof = tuple(h.hex() for h in self._chain.consistency(checkpoint.size, first, self._leaves))
                consistency = files.Consistency(first=checkpoint.size, second=first, path=proof)
                self._bundle.put_record(files.consistency_path(checkpoint.size), consistency)

    def _write_policies(self) -> None:
        """Each text that was applied or signed for, by its SHA-256: as the version was set, or as it was in force."""
        found: dict[tuple[str, str], str] = {}
        if self._policies:
            with Reading(self._settings, POLICIES) as reading:
                for message in reading.messages():
                    key, value = (messages.key(message) or b"").decode(errors="replace"), messages.value(message) or b""
                    for version, sha256 in self._policies:
                        if key in (version, version.rpartition("@")[0]) and digest(value) == sha256:
                            found[version, sha256] = value.decode(errors="replace")
        self.account.unknown_policies = sorted({version for version, _ in self._policies - found.keys()})
        with self._bundle.lines(files.POLICIES) as lines:
            for (version, _), text in sorted(found.items()):
                lines.put(files.dump(files.PolicyVersion(key=version, value=text)))

    def _write_weights(self) -> None:
        names = {pinned.sha256: pinned.name for pinned in weights.WEIGHTS.values()}
        listed = tuple(
            files.Weight(detector=detector, sha256=digest, name=names.get(digest))
            for detector, digest in sorted(self._detectors)
        )
        self._bundle.put_record(files.WEIGHTS, files.Weights(weights=listed))

    def _write_frames(self) -> None:
        with self._bundle.lines(files.COPIES) as copies:
            if not self._wanted.frames or not has_frames(self._chain.log):
                return
            published, account = self._published, self.account
            searched = published.search(self._wanted.since, self._wanted.until, self._neighbours())
            copies.put(files.dump(searched))
            for copy in published.besides():
                copies.put(files.dump(copy))
        account.frames, account.copies, account.unnamed = published.found, published.copies, published.unnamed

    def _neighbours(self) -> Iterator[Run]:
        """The frames of the segments before and after the export."""
        for sealed in self._chain.sealed():
            if not self.account.first <= sealed.segment.first < self.account.size:
                yield from sealed.segment.runs
