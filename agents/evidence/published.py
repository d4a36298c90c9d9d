"""What ``frames.anonymized`` holds of a camera over an export's time: the frames that events name, and the rest.

Every partition is read, whatever the events are: what a thief of the right to write published lies where it likes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from confluent_kafka import Message

from sfumato.agents import messages
from sfumato.agents.evidence.bundle import Bundle
from sfumato.agents.evidence.reading import Offsets, Reading
from sfumato.agents.evidence.tally import Frames
from sfumato.agents.ledger.entries import read_audit
from sfumato.agents.settings import Settings
from sfumato.schemas import export as files
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId
from sfumato.schemas.segment import Run, Source
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED

AROUND = timedelta(minutes=10)
"""By how much a frame's message and its audit event may lie apart."""
SETTLING = timedelta(minutes=1)
"""So long after it was published a frame may still get its audit event: its worker may have been killed between."""
_TABLES = """
CREATE TABLE named (epoch INT, sequence INT, sha256 TEXT, written INT, PRIMARY KEY (epoch, sequence)) WITHOUT ROWID;
CREATE TABLE others (epoch INT, sequence INT, event INT, sha256 TEXT, size INT, part INT, place INT, at INT);
CREATE INDEX by_frame ON others (epoch, sequence);
"""
_COLUMNS = ("epoch", "sequence", "event", "sha256", "size", "partition", "offset")


class Published:
    """The frames of one camera. Times are the broker's, in milliseconds: what an event says of its own is not trusted.
    Memory does not grow with them. To be closed."""

    def __init__(self, settings: Settings, camera: str, bundle: Bundle) -> None:
        self.found = self.copies = 0
        """Frames that were written; messages besides."""
        self.unnamed: list[str] = []
        """Of those the first frames that have no event."""
        self._settings = settings
        self._camera = camera
        self._bundle = bundle
        self._seen = Frames()
        self._earliest = self._latest = 0
        self._sources: dict[int, tuple[int, int]] = {}
        self._looked_at = 0
        self._db = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    @property
    def wanted(self) -> int:
        """Events that say a frame was published."""
        (count,) = self._db.execute("SELECT count(*) FROM named").fetchone()
        return int(count)

    def take_event(self, event: AuditEvent) -> None:
        """The event of a frame, the first of its identity."""
        if event.epoch is None or event.sequence is None:
            return
        self._seen.add(event.epoch, event.sequence)
        if event.output_sha256 is not None:
            row = (event.epoch, event.sequence, event.output_sha256)
            self._db.execute("INSERT OR IGNORE INTO named VALUES (?, ?, ?, 0)", row)

    def take_leaf(self, written: int) -> None:
        """When the broker took a leaf of the export."""
        if 0 < written <= _now():
            self._earliest = min(self._earliest or written, written)
            self._latest = max(self._latest, written)

    def take_source(self, source: Source) -> None:
        """Where events of the export lie."""
        first, last = self._sources.get(source.partition, (source.first_offset, source.last_offset))
        self._sources[source.partition] = (min(first, source.first_offset), max(last, source.last_offset))

    def search(self, since: datetime | None, until: datetime | None, neighbours: Iterable[Run]) -> files.Searched:
        """Write the frames that events name, and find what was published besides, from ``since`` (None: the first
        leaf) to ``until`` (None: now). ``neighbours``: frames of the log's other segments."""
        now = _now()
        begins = [_moment(self._earliest)] * (self._earliest > 0) + ([since] if since else [])
        begin = min(begins) - AROUND if begins else _moment(0)
        end = None if until is None else max(until, _moment(self._latest)) + AROUND
        with Reading(self._settings, FRAMES_ANONYMIZED) as reading:
            # All: the producer chooses a partition by key, and whoever has its rights another.
            for message in reading.messages(reading.offsets_at(begin), end):
                if messages.key(message) == self._camera.encode():
                    self._take_message(message)
            partitions = len(reading.partitions)
        self._compare_around(begin - AROUND, end and end + AROUND, neighbours)
        # Published after the last leaf, and just now: the export of what follows judges these.
        fresh = max(self._latest, now - int(SETTLING.total_seconds() * 1000))
        self._db.execute("DELETE FROM others WHERE event = 0 AND epoch NOT NULL AND at > ?", (fresh,))
        ended = min(end, _moment(now)) if end else _moment(now)
        return files.Searched(begin=begin, end=ended, partitions=partitions, messages=self._looked_at)

    def besides(self) -> Iterator[files.Copy]:
        """What was published besides, after :meth:`search`."""
        query = "SELECT epoch, sequence, event, sha256, size, part, place FROM others ORDER BY part, place"
        for row in self._db.execute(query):
            copy = files.Copy.model_validate(dict(zip(_COLUMNS, row, strict=True)))
            self.copies += 1
            if not copy.event and len(self.unnamed) < 100:
                named = copy.epoch is not None and copy.sequence is not None
                frame = FrameId(self._camera, copy.epoch or 0, copy.sequence or 0)
                self.unnamed.append(str(frame) if named else f"partition {copy.partition}, offset {copy.offset}")
            yield copy

    def _take_message(self, message: Message) -> None:
        self._looked_at += 1
        value = messages.value(message) or b""
        try:
            envelope = CloudEvent.from_headers(messages.headers(message))
            frame = envelope.frame_id(messages.key(message))
        except EnvelopeError:
            self._take_other(None, value, message)
            return
        digest = sha256(value).hexdigest()
        query = "SELECT sha256, written FROM named WHERE epoch = ? AND sequence = ?"
        named, written = self._db.execute(query, frame[1:]).fetchone() or (None, 0)
        if named != digest:
            self._take_other(frame, value, message)
        elif not written and files.has_place(frame.epoch, frame.sequence):
            self._bundle.put(files.frame_path(frame, files.SUFFIXES.get(envelope.content_type, ".h264")), value)
            self._db.execute("UPDATE named SET written = 1 WHERE epoch = ? AND sequence = ?", frame[1:])
            self.found += 1

    def _take_other(self, frame: FrameId | None, value: bytes, message: Message) -> None:
        epoch, sequence = frame[1:] if frame else (None, None)
        event = frame is not None and self._seen.has(frame.epoch, frame.sequence)
        place = (message.partition() or 0, message.offset() or 0, message.timestamp()[1])
        row = (epoch, sequence, event, sha256(value).hexdigest(), len(value), *place)
        self._db.execute("INSERT INTO others VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _compare_around(self, begin: datetime, end: datetime | None, neighbours: Iterable[Run]) -> None:
        """Frames at the edges are of before and after the export: compare them with their own events."""
        if not self._unknown():
            return
        with Reading(self._settings, AUDIT) as reading:
            starts, offsets = reading.offsets_at(begin), Offsets(reading)
            for partition, (first, last) in self._sources.items():
                if 0 <= starts[partition] < first:
                    self._compare(offsets.between(partition, starts[partition], first - 1))
                self._compare(reading.messages({partition: last + 1}, end))
        for run in neighbours if self._unknown() else ():  # `audit` may hold their events no longer
            gone = "DELETE FROM others WHERE event = 0 AND epoch = ? AND sequence BETWEEN ? AND ?"
            self._db.execute(gone, (run.epoch, run.first, run.last))

    def _compare(self, found: Iterable[Message]) -> None:
        for message in found:
            value = messages.value(message) or b""
            entry = read_audit(messages.key(message) or b"", value, message.partition() or 0)
            if entry.log != self._camera or isinstance(entry.identity, str):
                continue
            if not self._db.execute("SELECT 1 FROM others WHERE epoch = ? AND sequence = ?", entry.identity).fetchone():
                continue
            try:
                digest = AuditEvent.from_message(value).output_sha256
            except EnvelopeError:
                digest = None
            of_frame = "WHERE event = 0 AND epoch = ? AND sequence = ?"
            self._db.execute(f"DELETE FROM others {of_frame} AND sha256 = ?", (*entry.identity, digest))
            self._db.execute(f"UPDATE others SET event = 1 {of_frame}", entry.identity)  # the first event counts

    def _unknown(self) -> bool:
        query = "SELECT 1 FROM others WHERE event = 0 AND epoch NOT NULL"
        return self._db.execute(query).fetchone() is not None


def _now() -> int:
    return int(time.time() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
