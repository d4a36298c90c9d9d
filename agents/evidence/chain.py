"""A log's sealed segments, in order, and the leaves of each, as Kafka has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import Message

from sfumato.agents import messages
from sfumato.agents.evidence.reading import Offsets, ReadError, Reading
from sfumato.agents.evidence.replay import frontier, open_checkpoint
from sfumato.agents.evidence.tally import Frames
from sfumato.agents.ledger.account import Ids
from sfumato.agents.ledger.entries import Entry, read_audit, read_disclosure
from sfumato.agents.ledger.note import Checkpoint, NoteError, VerifierKey
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.segment import DISCLOSURES_LOG, Segment
from sfumato.schemas.topics import AUDIT, DISCLOSURES, LEDGER

CLOCKS = timedelta(minutes=10)
"""By how much the clocks of an ingestor, the ledger and Kafka may differ."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """``note``: the segment's checkpoint, signed, as it lies in the topic."""

    note: bytes
    checkpoint: Checkpoint
    segment: Segment
    key: VerifierKey


class Leaf(NamedTuple):
    """``value``: of its message, byte for byte; ``written``: when the broker took it, in Unix milliseconds, -1 where it
    does not say."""

    value: bytes
    written: int


class Chain:
    """The segments of one log, each following the one before, from the oldest that is there. A context manager.

    Two ledgers at once may have cut the log at different places; of what they sealed one way through is taken.
    """

    def __init__(
        self, settings: Settings, log: str, keys: Sequence[VerifierKey], since: datetime | None = None
    ) -> None:
        """Reads the topic ``ledger``, from somewhat before ``since`` on. Raises :class:`ReadError` where nothing of the
        log is there, segments are missing in between, or it was forked."""
        self.log = log
        self.ignored = 0
        """Messages under the log's key that none of the keys signed."""
        self._keys = keys
        self._notes = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._notes.execute(
            "CREATE TABLE notes (size INT, first INT, sealed_at TEXT, root TEXT, note BLOB, PRIMARY KEY (size, first))"
        )
        try:
            with Reading(settings, LEDGER) as reading:
                for message in reading.messages(None if since is None else reading.offsets_at(since - CLOCKS)):
                    if messages.key(message) == log.encode():
                        self._take(messages.value(message) or b"")
            self._path = self._way()
        except BaseException:
            self._notes.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notes.close()

    @property
    def size(self) -> int:
        """Leaves that are sealed."""
        return self._path[-1][1]

    def sealed(self, first: int = 0, size: int | None = None) -> Iterator[Sealed]:
        """The segments of the leaves ``first`` to ``size`` (exclusive), both where segments begin or end."""
        for begin, end in self._path:
            if begin >= first and (size is None or end <= size):
                yield self._open(begin, end)

    def times(self) -> Iterator[tuple[int, int, datetime]]:
        """Each segment's first leaf, its end, and when it was sealed."""
        for first, size in self._path:
            query = "SELECT sealed_at FROM notes WHERE size = ? AND first = ?"
            (at,) = self._notes.execute(query, (size, first)).fetchone()
            yield first, size, datetime.fromisoformat(at)

    def covering(self, begin: int, end: int, leaves: Leaves) -> Range:
        """The leaves ``begin`` to ``end`` (exclusive), from the segments' subtrees; of segments that lie in it only
        partly, from their leaves."""
        covered = Range(begin)
        for sealed in self._between(begin, end):
            segment = sealed.segment
            if segment.first >= begin and segment.size <= end:
                part = Range(segment.first, segment.size, map(bytes.fromhex, segment.subtrees))
            else:
                part = Range(max(begin, segment.first))
                for index, leaf in enumerate(leaves.of(segment), segment.first):
                    if begin <= index < end:
                        part.append(leaf_hash(leaf.value))
            covered = covered.joined(part)
        return covered

    def consistency(self, first: int, second: int, leaves: Leaves) -> list[bytes]:
        """The proof that the tree of ``first`` leaves is a beginning of that of ``second``. Raises :class:`ReadError`
        where the segments from ``first`` on are not there."""
        if first <= self._path[0][0]:
            raise ReadError(f"{self.log}: the topic ledger no longer holds the segment that ends with leaf {first - 1}")
        before = frontier(next(self._between(first - 1, first)).segment)
        known = Subtrees((before, self.covering(before.end, first, leaves), self.covering(first, second, leaves)))
        return known.consistency(first, second)

    def _between(self, begin: int, end: int) -> Iterator[Sealed]:
        return (self._open(first, size) for first, size in self._path if size > begin and first < end)

    def _open(self, first: int, size: int) -> Sealed:
        query = "SELECT note FROM notes WHERE size = ? AND first = ?"
        (note,) = self._notes.execute(query, (size, first)).fetchone()
        return Sealed(note, *open_checkpoint(note, self._keys))

    def _take(self, note: bytes) -> None:
        try:
            checkpoint, segment, _ = open_checkpoint(note, self._keys)
        except NoteError:
            self.ignored += 1
            return
        if segment.log != self.log:
            self.ignored += 1
            return
        try:
            frontier(segment)
            Range(segment.first, segment.size, map(bytes.fromhex, segment.subtrees))
        except ValueError as error:
            raise ReadError(
                f"{self.log}: the ledger signed a segment of {segment.size} leaves that contradicts itself: {error}; "
                "keep the message, it is evidence"
            ) from None
        root = checkpoint.root.hex()
        for (other,) in self._notes.execute("SELECT root FROM notes WHERE size = ?", (segment.size,)):
            if other != root:
                raise ReadError(
                    f"{self.log}: forked: the ledger signed two heads of {segment.size} leaves, {other} and {root}; "
                    "keep both messages, they are evidence"
                )
        row = (segment.size, segment.first, segment.sealed_at.astimezone(UTC).isoformat(), root, note)
        self._notes.execute("INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?, ?)", row)

    def _way(self) -> list[tuple[int, int]]:
        """To the furthest leaf, segment by segment, from as early as there is a way."""
        notes = self._notes.execute("SELECT first, size FROM notes ORDER BY size, first").fetchall()
        if not notes:
            raise ReadError(
                f"{self.log}: the topic ledger holds no segment of it that the key signed; does `sfumato ledger` run, "
                "and is it its key?"
            )
        earliest: dict[int, tuple[int, int]] = {}
        for first, size in notes:  # by size: the earliest beginning of a way to it, and its last segment's
            begin = earliest[first][0] if first in earliest else first
            earliest[size] = min(earliest.get(size, (begin, first)), (begin, first))
        end = max(earliest)
        begin = earliest[end][0]
        if any(first < begin and size < begin for first, size in notes):
            before = max(size for first, size in notes if size < begin)
            raise ReadError(f"{self.log}: leaves {before} to {begin - 1} are in no segment of the topic ledger")
        way = []
        while end > begin:
            way.append((earliest[end][1], end))
            end = earliest[end][1]
        return way[::-1]


class Leaves:
    """The leaves of a log's segments, read from ``audit`` or ``disclosures``. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, log: str) -> None:
        self._reading = Reading(settings, DISCLOSURES if log == DISCLOSURES_LOG else AUDIT)
        self._offsets = Offsets(self._reading)
        self._log = log
        self._ids = Ids()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.__exit__(kind, error, trace)

    def of(self, segment: Segment) -> list[Leaf]:
        """The segment's leaves, in order. Of a log without frames the segments before it must have been asked for, or
        remembered.
        Raises :class:`ReadError` where the topic no longer holds what was sealed."""
        source, leaves, range = segment.source, [], Range(segment.first)
        wanted, taken = Frames(segment.runs), Frames()
        for message in self._offsets.between(source.partition, source.first_offset, source.last_offset):
            entry = self._entry(message)
            if entry.log != self._log:
                continue
            if isinstance(entry.identity, str):
                new = self._ids.add(entry.identity)
            else:  # a duplicate of a leaf of an older segment is not in the runs
                new = wanted.has(*entry.identity) and taken.add(*entry.identity)
            if new:
                leaves.append(Leaf(entry.value, message.timestamp()[1]))
                range.append(leaf_hash(entry.value))
        if range.end != segment.size or [hash.hex() for hash in range.hashes] != list(segment.subtrees):
            raise ReadError(
                f"{self._reading.name}, partition {source.partition}, offsets {source.first_offset} to "
                f"{source.last_offset}: not what was sealed as leaves {segment.first} to {segment.size - 1} of "
                f"{segment.log}; deleted by the topic's retention, or changed"
            )
        return leaves

    def remember(self, segment: Segment) -> None:
        """Take in the ids of a segment before those that are wanted, as far as the topic still holds them."""
        source = segment.source
        for message in self._offsets.between(source.partition, source.first_offset, source.last_offset):
            entry = self._entry(message)
            if entry.log == self._log and isinstance(entry.identity, str):
                self._ids.add(entry.identity)

    def _entry(self, message: Message) -> Entry:
        key, value = messages.key(message) or b"", messages.value(message) or b""
        if self._log != DISCLOSURES_LOG:
            return read_audit(key, value, message.partition() or 0)
        try:
            found = messages.headers(message)
            ids = [messages.to_bytes(content) for name, content in found if name == "ce_id" and content is not None]
        except EnvelopeError:
            ids = []
        return read_disclosure(ids[0] if len(ids) == 1 else None, value)


def find(chain: Chain, epoch: int, sequence: int) -> Sealed | None:
    """The segment with the frame's event."""
    for sealed in chain.sealed():
        if any(run.epoch == epoch and run.first <= sequence <= run.last for run in sealed.segment.runs):
            return sealed
    return None
