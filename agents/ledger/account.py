"""One log: its leaves, what is remembered so that none comes twice, and the account of its open segment. No Kafka.

What becomes a leaf depends on the events and their order alone (:mod:`~sfumato.agents.ledger.entries`). What is said
beside, as that a frame is missing, may depend on the clock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sfumato.agents.ledger.entries import Entry, Place
from sfumato.agents.ledger.tree import Range, leaf_hash
from sfumato.agents.sequences import Sequences, subtract
from sfumato.schemas.head import Head, KnownEpoch, Pending, Report
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import MOST_CONFLICTS, Conflict, Run, Segment, Source

MOST_EPOCHS = 256
"""Epochs of a camera that are remembered; the one not heard of for longest is forgotten first."""
MOST_RUNS = 5_000
"""Runs of sequences of a camera that are remembered: what an epoch with holes costs."""
MOST_MISSING = 2_000
"""Runs of missing sequences that a segment names; what more there is, the next one does."""
REMEMBERED = 1_000
"""Newest leaves whose outcome, or id, is remembered."""
_LETTERS: dict[Outcome | None, str] = {Outcome.MASKED: "m", Outcome.FULLY_MASKED: "f", Outcome.DROPPED: "d", None: "?"}
_OUTCOMES = {letter: outcome for outcome, letter in _LETTERS.items()}


@dataclass(slots=True)
class Epoch:
    """What is known of a camera's epoch. ``missing``: what was called so and has not come; so it lies in the gaps of
    ``audited``, and has no more runs than these. ``noticed``: since when (monotonic, seconds) a gap is seen, by its
    first sequence."""

    audited: Sequences = field(default_factory=Sequences)
    missing: Sequences = field(default_factory=Sequences)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    noticed: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """The open segment: what came since the one before was sealed. ``opened_at``: when the first of it came that the
    log's head does not cover, monotonic, in seconds; None: nothing did. ``first_offset``: of the first such event; -1:
    none came. ``written_at``: when the broker took it, Unix seconds."""

    opened_at: float | None = None
    hashes: list[bytes] = field(default_factory=list)
    first_offset: int = -1
    written_at: float = 0.0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    runs: dict[int, Sequences] = field(default_factory=dict)
    policies: set[tuple[str, int]] = field(default_factory=set)
    detectors: dict[str, set[str]] = field(default_factory=dict)
    missing: list[Run] = field(default_factory=list)
    found_late: int = 0
    duplicates: int = 0
    conflicting: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    reordered: int = 0
    invalid: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)

    def open(self, now: float) -> None:
        if self.opened_at is None:
            self.opened_at = now


class Ids:
    """The identities of the newest leaves, oldest first: what has one of them is no new leaf."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def add(self, id: str) -> bool:
        """Whether it is new."""
        if id in self._seen:
            return False
        self._seen[id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True


class Log:
    """A log from its first leaf on, or as its head left it. Not thread-safe."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.place = place
        self.next_offset = 0
        """Events of lower offsets are in the log already."""
        self.note = ""
        self.stopped = ""
        """Why nothing is signed any more."""
        self.tree = Range()
        """The leaves that are sealed."""
        self.tally = Tally()
        self.epochs: OrderedDict[int, Epoch] = OrderedDict()
        self.reports: dict[int, Report] = {}
        self._newest = -1
        """The epoch heard of last."""
        self._runs = 0
        self._overdue = 0
        """Frames that were called missing since :meth:`notice` said how many."""
        self._recent: OrderedDict[tuple[int, int], Outcome | None] = OrderedDict()
        self._ids = Ids()
        self._before: tuple[Range, list[bytes]] = (Range(), [])

    @property
    def size(self) -> int:
        """Leaves, those of the open segment included."""
        return self.tree.end + len(self.tally.hashes)

    @property
    def unsealed_from(self) -> int | None:
        """The first offset that its head does not cover; None: it covers all that was taken."""
        return self.tally.first_offset if self.tally.first_offset >= 0 else None

    def take(self, entry: Entry, offset: int, now: float) -> bool:
        """Take an event in, in the order of their offsets; whether it became a leaf."""
        self.next_offset = offset + 1
        tally = self.tally
        if tally.first_offset < 0:
            tally.first_offset, tally.written_at = offset, entry.written_at
            tally.open(now)
        if isinstance(entry.identity, str):
            new = self._ids.add(entry.identity)
        else:
            new = self._is_new_frame(entry, *entry.identity)
        if not new:
            tally.duplicates += 1
            return False
        tally.hashes.append(leaf_hash(entry.value))
        if entry.outcome is None:
            tally.invalid += 1
        else:
            tally.outcomes[entry.outcome] += 1
        if entry.reason is not None:
            tally.reasons[entry.reason] += 1
        if entry.policy is not None:
            tally.policies.add(entry.policy)
        for name, sha256 in entry.detectors:
            tally.detectors.setdefault(name, set()).add(sha256)
        return True

    def take_report(self, report: Report, now: float) -> None:
        """What the ingestor says of an epoch; what it says again changes nothing."""
        known = self.reports.get(report.epoch, Report(epoch=report.epoch))
        dropped = {**known.dropped}
        for reason, count in report.dropped.items():
            if count > dropped.get(reason, 0):
                self.tally.dropped[reason] += count - dropped.get(reason, 0)
                dropped[reason] = count
                self.tally.open(now)
        if report.ended and not known.ended:
            self.tally.open(now)
        self.reports[report.epoch] = Report(
            epoch=report.epoch,
            last_sent=max(known.last_sent, report.last_sent),
            dropped=dropped,
            ended=known.ended or report.ended,
        )
        if len(self.reports) > MOST_EPOCHS:
            del self.reports[min(self.reports)]

    def notice(self, now: float, grace: float, raw: float) -> int:
        """Look for frames that are overdue; how many were called missing. A gap before later frames counts once it is
        as old as ``grace``, in seconds; the end of an epoch that has ended only once raw frames are deleted too, after
        ``raw`` seconds, since an anonymizer may be late."""
        for number, epoch in self.epochs.items():
            if epoch.missing.pieces:
                epoch.missing.remove(epoch.audited)
            last, end = epoch.audited.last, self._end(number)
            if epoch.audited.pieces == 1 and epoch.audited.runs[0][0] == 0 and end <= last:
                continue  # nothing is missing, as nearly always
            noticed = {}
            for first, until in subtract(epoch.audited.gaps(max(last, end)), epoch.missing.runs):
                noticed[first] = since = epoch.noticed.get(first, now)
                overdue = now - since >= grace + (raw if first > last else 0.0)
                if overdue and len(self.tally.missing) < MOST_MISSING:
                    epoch.missing.add_run(first, until)
                    self._miss(number, [(first, until)])
                    self.tally.open(now)
            epoch.noticed = noticed
        found, self._overdue = self._overdue, 0
        return found

    def seal(self, topic: str, at: datetime, policy_sha256: Callable[[str, int], str | None]) -> Segment:
        """Close the open segment, which has leaves. ``topic``: its name in the contract."""
        tally, segment = self.tally, Range(self.tree.end)
        for hash in tally.hashes:
            segment.append(hash)
        tree = self.tree.joined(segment)
        known = {(name, version): policy_sha256(name, version) for name, version in sorted(tally.policies)}
        sealed = Segment(
            log=self.name,
            first=self.tree.end,
            size=tree.end,
            root=tree.root().hex(),
            previous_root=self.tree.root().hex(),
            frontier=tuple(hash.hex() for hash in self.tree.hashes),
            subtrees=tuple(hash.hex() for hash in segment.hashes),
            sealed_at=at,
            source=Source(
                topic=topic,
                partition=self.place.partition,
                first_offset=tally.first_offset,
                last_offset=self.next_offset - 1,
            ),
            outcomes=dict(tally.outcomes),
            reasons=dict(tally.reasons),
            runs=tuple(
                Run(epoch=epoch, first=first, last=last)
                for epoch, sequences in tally.runs.items()
                for first, last in sequences.runs
            ),
            missing=tuple(tally.missing),
            found_late=tally.found_late,
            duplicates=tally.duplicates,
            conflicting=tally.conflicting,
            conflicts=tuple(tally.conflicts),
            reordered=tally.reordered,
            invalid=tally.invalid,
            ingest_dropped=dict(tally.dropped),
            policies={f"{name}@{version}": sha256 for (name, version), sha256 in known.items() if sha256},
            detectors={name: tuple(sorted(found)) for name, found in sorted(tally.detectors.items())},
        )
        self._before = (self.tree, tally.hashes)
        self.tree, self.tally = tree, Tally()
        return sealed

    def root_at(self, size: int) -> bytes | None:
        """The head of the first ``size`` leaves; None where that is too long ago, or not yet."""
        if size == self.tree.end:
            return self.tree.root()
        for base, hashes in (self._before, (self.tree, self.tally.hashes)):
            if base.end <= size <= base.end + len(hashes):
                grown = Range(0, base.end, base.hashes)
                for hash in hashes[: size - base.end]:
                    grown.append(hash)
                return grown.root()
        return None

    def head(self, origin: str, at: datetime) -> Head:
        """The state to go on from; the open segment, if it has leaves, is not in it."""
        tally = self.tally
        return Head(
            log=self.name,
            origin=origin,
            at=at,
            note=self.note,
            size=self.tree.end,
            frontier=tuple(hash.hex() for hash in self.tree.hashes),
            topic=self.place.topic,
            partition=self.place.partition,
            next_offset=self.next_offset,
            stopped=self.stopped,
            epochs=tuple(
                KnownEpoch(
                    epoch=number,
                    runs=tuple(epoch.audited.runs),
                    missing=tuple(epoch.missing.runs),
                    outcomes=dict(epoch.outcomes),
                )
                for number, epoch in self.epochs.items()
            ),
            reports=tuple(self.reports.values()),
            recent=tuple(self._encoded()),
            ids=tuple(self._ids),
            pending=Pending(
                missing=tuple(tally.missing),
                duplicates=tally.duplicates,
                conflicting=tally.conflicting,
                conflicts=tuple(tally.conflicts),
                ingest_dropped=dict(tally.dropped),
            ),
        )

    @classmethod
    def from_head(cls, head: Head) -> Log:
        """Raises ValueError where the head contradicts itself."""
        log = cls(head.log, Place(head.topic, head.partition))
        log.next_offset, log.note, log.stopped = head.next_offset, head.note, head.stopped
        log.tree = Range(0, head.size, map(bytes.fromhex, head.frontier))
        log._before = (log.tree, [])
        for known in head.epochs:
            audited, missing = Sequences(known.runs), Sequences(known.missing)
            log.epochs[known.epoch] = Epoch(audited, missing, Counter(known.outcomes))
            log._runs += audited.pieces
        log.reports = {report.epoch: report for report in head.reports}
        for epoch, first, letters in head.recent:
            for sequence, letter in enumerate(letters, first):
                log._recent[epoch, sequence] = _OUTCOMES.get(letter)
        log._ids = Ids(head.ids)
        pending = head.pending
        log.tally.missing, log.tally.conflicts = list(pending.missing), list(pending.conflicts)
        log.tally.duplicates, log.tally.conflicting = pending.duplicates, pending.conflicting
        log.tally.dropped = Counter(pending.ingest_dropped)
        return log

    def covered(self) -> None:
        """A head without the open segment, which has no leaves, is written: what was taken is in it."""
        self.tally.first_offset, self.tally.opened_at = -1, None

    def _is_new_frame(self, entry: Entry, number: int, sequence: int) -> bool:
        epoch = self.epochs.get(number)
        if epoch is None:
            epoch = self.epochs[number] = Epoch()
        elif number != self._newest:
            self.epochs.move_to_end(number)
        self._newest = number
        before, last = epoch.audited.pieces, epoch.audited.last
        if not epoch.audited.add(sequence):
            self._compare(entry, number, sequence)
            return False
        tally = self.tally
        tally.reordered += sequence < last
        if epoch.missing.pieces and sequence in epoch.missing:
            tally.found_late += 1
        if entry.outcome is not None:
            epoch.outcomes[entry.outcome] += 1
        runs = tally.runs.get(number)
        if runs is None:
            runs = tally.runs[number] = Sequences()
        runs.add(sequence)
        self._recent[number, sequence] = entry.outcome
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        if epoch.audited.pieces != before:
            self._runs += epoch.audited.pieces - before
            self._shrink()
        return True

    def _compare(self, entry: Entry, epoch: int, sequence: int) -> None:
        """The first event of an identity counts; one that says something else is told."""
        first = self._recent.get((epoch, sequence), entry.outcome)
        if first is entry.outcome:
            return
        self.tally.conflicting += 1
        if first is not None and entry.outcome is not None and len(self.tally.conflicts) < MOST_CONFLICTS:
            conflict = Conflict(epoch=epoch, sequence=sequence, first=first, later=entry.outcome)
            self.tally.conflicts.append(conflict)

    def _shrink(self) -> None:
        """Forget what is too much. A gap that nothing will be known of any more is called missing before: what comes
        of it later is told to be missing all the same, never the other way round."""
        while len(self.epochs) > MOST_EPOCHS or (self._runs > MOST_RUNS and len(self.epochs) > 1):
            number, forgotten = self.epochs.popitem(last=False)
            self._runs -= forgotten.audited.pieces
            gaps = forgotten.audited.gaps(max(forgotten.audited.last, self._end(number)))
            self._miss(number, subtract(gaps, forgotten.missing.runs))
        if self._runs > MOST_RUNS:
            number, epoch = next(iter(self.epochs.items()))
            gap = epoch.audited.fill_lowest_gap()
            self._miss(number, subtract([gap], epoch.missing.touching(*gap)))
            self._runs -= 1

    def _end(self, number: int) -> int:
        """The last sequence of an epoch that the ingestor has ended, else -1."""
        report = self.reports.get(number)
        return report.last_sent if report is not None and report.ended else -1

    def _miss(self, number: int, runs: Iterable[tuple[int, int]]) -> None:
        """Call sequences of an epoch missing."""
        for first, last in runs:
            self.tally.missing.append(Run(epoch=number, first=first, last=last))
            self._overdue += last - first + 1

    def _encoded(self) -> Iterator[tuple[int, int, str]]:
        """The remembered outcomes, oldest first, those of sequences that follow each other as one text."""
        epoch, first, letters = -1, -1, ""
        for (number, sequence), outcome in self._recent.items():
            if number == epoch and sequence == first + len(letters):
                letters += _LETTERS[outcome]
                continue
            if letters:
                yield epoch, first, letters
            epoch, first, letters = number, sequence, _LETTERS[outcome]
        if letters:
            yield epoch, first, letters
