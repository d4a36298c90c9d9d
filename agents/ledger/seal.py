"""The ledger's agent: audit events and disclosures in, sealed segments out.

Delivery guarantee: at least once in, no fork out. A segment's head goes to ``ledger.heads`` first, then its checkpoint
to ``ledger``, then its offsets are committed. A ledger that goes on from a head publishes its checkpoint again, byte
for byte: consumers drop what they have. What becomes a leaf is decided by offsets, not by what Faust hands over:
whatever is missing in between, or was committed without being sealed, is read by a client of the agent's own. As the
anonymizer, the agent never raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import KafkaException
from faust.types import TP

from sfumato.agents import exits, messages, metrics
from sfumato.agents.ledger.book import Book, Rules
from sfumato.agents.ledger.bulk import Bounds, BulkReader
from sfumato.agents.ledger.entries import Entry, Place, Version, read_audit, read_disclosure
from sfumato.agents.ledger.gauges import Gauges, Unread
from sfumato.agents.ledger.heads import HeadStore
from sfumato.agents.ledger.keys import KeyFileError, Keys, load
from sfumato.agents.ledger.reports import ReportStore
from sfumato.agents.ledger.stamp import stamp
from sfumato.agents.policies import PolicyStore
from sfumato.agents.produce import Producer, deliver
from sfumato.agents.settings import Settings
from sfumato.agents.transport import UNREADABLE
from sfumato.agents.watch import Watchdog
from sfumato.schemas.cloudevent import EnvelopeError, Headers
from sfumato.schemas.frame import Message
from sfumato.schemas.head import Cover, Head, HeadError
from sfumato.schemas.policy import digest
from sfumato.schemas.topics import AUDIT, DISCLOSURES, LEDGER, LEDGER_HEADS, Topic

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at what no event brings about."""
CHUNK = 1_000
"""Messages that are taken at once, at most."""
FAR_BEHIND = 1_000
"""Messages behind a partition's end from which on it is read in bulk."""
BULK = 50
"""Chunks that are read in bulk before Faust's events get their turn."""
REPORTS_BEFORE = timedelta(minutes=10)
"""Ingestors' reports are read from so long before the newest head on."""
COMMIT_INTERVAL = 0.5
"""Seconds between two commits, at least."""
FINISH_TIMEOUT = 5.0
"""Seconds that sealing what is open may take at the end."""


class Revoked(Exception):
    """The partitions were taken away meanwhile: whoever has them goes on from the heads."""


class Sealer:
    """Moves events from Faust's stream into the book, and what that seals to the broker."""

    def __init__(self, settings: Settings, keys: Keys, book: Book, producer: Producer, heads: HeadStore) -> None:
        self._settings = settings
        self._keys = keys
        self._book = book
        self._producer = producer
        self._heads = heads
        self._audit, self._disclosures = settings.topic(AUDIT), settings.topic(DISCLOSURES)
        self._reports: ReportStore | None = None
        self._gauges = Gauges(book)
        self._committed: dict[Place, int] = {}
        self._committed_at = 0.0
        self._readers: dict[Place, BulkReader] = {}
        self._bounds = Bounds(settings)
        self._written: dict[Place, float] = {}
        self._busy = asyncio.Lock()
        self._revoked = self._renewed = 0
        self.taken = 0
        """Events read so far; for the watchdog."""

    def revoke(self) -> None:
        """The partitions are taken away; nothing of them is acknowledged any more."""
        self._revoked += 1
        self._book.close()
        self._committed.clear()
        self._gauges.clear()

    async def _renew(self) -> None:
        """After partitions were revoked, read the heads anew: others may have written since."""
        while self._renewed != self._revoked:
            self._renewed = self._revoked
            await asyncio.to_thread(self._close_readers)
            self._heads = HeadStore(self._settings, self._keys)
            await asyncio.to_thread(self._heads.start)

    def close(self) -> None:
        """Close what reads from Kafka."""
        self._close_readers()
        self._bounds.close()

    def _close_readers(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._heads.close()

    async def run(self, app: Any, stream: Any, reports: ReportStore) -> None:
        self._reports = reports
        ticking = asyncio.create_task(self._tick(app))
        ticking.add_done_callback(exits.restart_on_failure)
        async for events in stream.noack_take(CHUNK, within=self._settings.batch_wait):
            async with self._busy:
                try:
                    await self._take(app, events)
                    await self._commit(app)
                except Revoked:
                    log.info("partitions were revoked")

    async def finish(self) -> None:
        """Seal what is open, at the end. Never raises: else the next ledger seals it."""
        try:
            async with asyncio.timeout(FINISH_TIMEOUT), self._busy:
                self._book.due(time.monotonic(), everything=True)
                await self._publish()
        except Exception as error:  # noqa: BLE001 - the process ends
            log.error("what is open was not sealed at the end: %r", error)

    async def _tick(self, app: Any) -> None:
        while True:
            await asyncio.sleep(TICK)
            async with self._busy:
                try:
                    await self._look(app)
                    await self._commit(app)
                except Revoked:
                    log.info("partitions were revoked")
                except HeadError as error:
                    exits.leave(str(error), exits.EXIT_CONFIGURATION)

    async def _look(self, app: Any) -> None:
        for place in _assigned(app):
            await self._open(place)
            await self._look_at_end(app, place)
        now = time.monotonic()
        for head in self._heads.came():
            self._book.claim(head)
        for camera, report in self._reports.came() if self._reports else ():
            self._book.take_report(camera, report, now)
        self._book.due(now)
        await self._publish()
        self._gauges.show(now, time.time(), {place: self._unread(app, place) for place in _assigned(app)})

    async def _take(self, app: Any, events: Iterable[Any]) -> None:
        now = time.monotonic()
        places: set[Place] = set()
        assigned = _assigned(app)
        for event in events:
            message = event.message
            place, offset = Place(message.topic, message.partition), message.offset
            if place not in assigned:
                continue  # read before a rebalance
            if place not in places:
                await self._open(place)
                places.add(place)
            expected = self._expected(place)
            if offset > expected or (offset == expected and tuple(message.headers or ()) == UNREADABLE):
                await self._read_until(place, offset)
            elif offset == expected:
                entry = self._entry(place, message.key, message.value, message.headers)
                entry.written_at = message.timestamp or time.time()  # none: it could not be parsed
                self._put(place, offset, entry, now)
        for place in places:
            await self._read_ahead(app, place)
        await self._publish()

    async def _open(self, place: Place) -> None:
        if self._book.next(place) is not None:
            return
        await self._renew()
        before = self._revoked
        kept = await asyncio.to_thread(self._bounds.kept, place)
        if self._revoked != before:
            raise Revoked
        covers = self._heads.covers()  # before the heads: each log that a cover names has one by then
        notes = self._book.open(place, self._heads.newest(), covers, self._heads.segments(), kept)
        log.info("%s: on from offset %d", place, self._book.next(place))
        await self._deliver((LEDGER, _checkpoint(note)) for note in notes)

    async def _look_at_end(self, app: Any, place: Place) -> None:
        """What Faust knows of a partition's end may be old, so the broker is asked before a log is stopped for it."""
        end, before = app.consumer.highwater(TP(place.topic, place.partition)), self._revoked
        if end is not None and end >= self._expected(place):
            return
        try:
            kept = await asyncio.to_thread(self._bounds.kept, place)
        except (KafkaException, TimeoutError) as error:
            log.warning("%s: its end is not known: %s", place, error)
            return
        if self._revoked != before:
            raise Revoked
        self._book.end_at(place, kept.stop)

    async def _read_until(self, place: Place, offset: int) -> None:
        """Take everything up to an offset that Faust has handed over, and that exists therefore."""
        while self._expected(place) <= offset:
            if not await self._read(place):
                raise RuntimeError(f"{place}: offset {offset} was handed over, but cannot be read")

    async def _read_ahead(self, app: Any, place: Place) -> None:
        tp = TP(place.topic, place.partition)
        read = 0
        for _ in range(BULK):
            end = app.consumer.highwater(tp)
            if end is None or end - self._expected(place) < FAR_BEHIND:
                break
            read += await self._read(place)
        if read:
            await app.consumer.seek(tp, self._expected(place))  # what was read need not be handed over

    async def _read(self, place: Place) -> int:
        """Take the next messages of a partition; how many came."""
        before, expected = self._revoked, self._expected(place)
        reader = self._readers.get(place)
        if reader is None:
            reader = self._readers[place] = BulkReader(self._settings, place)
        messages = await asyncio.to_thread(reader.read, expected, CHUNK)
        if self._revoked != before:
            raise Revoked
        now = time.monotonic()
        by_header = place.topic != self._audit  # librdkafka's headers cost as much as all the rest of an audit event
        for message in messages:
            offset = message.offset() or 0
            if offset > expected:
                log.warning("%s: offsets %d to %d do not exist any more", place, expected, offset - 1)
            expected = offset + 1
            headers = _headers(message) if by_header else ()
            entry = self._entry(place, message.key(), message.value(), headers)
            entry.written_at = message.timestamp()[1] / 1000
            self._put(place, offset, entry, now)
        await self._publish()
        return len(messages)

    def _expected(self, place: Place) -> int:
        """The offset to be taken next."""
        offset = self._book.next(place)
        if offset is None:
            raise Revoked
        return offset

    def _put(self, place: Place, offset: int, entry: Entry, now: float) -> None:
        self.taken += 1
        self._written[place] = entry.written_at
        self._book.take(place, offset, entry, now)

    def _unread(self, app: Any, place: Place) -> Unread:
        """By what the broker said last. A partition of which nothing was read yet has no known age."""
        end, next = app.consumer.highwater(TP(place.topic, place.partition)), self._book.next(place)
        waiting = end - next if end is not None and next is not None else 0
        return Unread(max(0, waiting), self._written.get(place, time.time()))

    def _entry(self, place: Place, key: Any, value: Any, headers: Any) -> Entry:
        if place.topic == self._audit:
            return read_audit(key, value, place.partition)
        ids = [content for name, content in headers or () if name == "ce_id" and content is not None]
        return read_disclosure(ids[0] if len(ids) == 1 else None, value)

    async def _publish(self) -> None:
        """Heads first, then checkpoints, each acknowledged by the broker; what they cover at the end."""
        places: set[Place] = set()
        for sealed in self._book.sealed():
            await self._deliver(self._state(each.head) for each in sealed)
            await self._deliver((LEDGER, _checkpoint(each.note)) for each in sealed if each.note)
            places.update(Place(each.head.topic, each.head.partition) for each in sealed)
        await self._deliver(self._state(self._book.cover(place)) for place in places)

    def _state(self, record: Head | Cover) -> tuple[Topic, Message]:
        return LEDGER_HEADS, stamp(record.to_message(), self._keys.signer)

    async def _deliver(self, messages: Iterable[tuple[Topic, Message]]) -> None:
        given = list(messages)
        if given:
            before = self._revoked
            await deliver(self._producer, given)
            if self._revoked != before:
                raise Revoked

    async def _commit(self, app: Any) -> None:
        """Commit what is sealed. Faust would want every single event acknowledged, also those that were read in bulk;
        what it commits by itself is nothing."""
        if time.monotonic() - self._committed_at < COMMIT_INTERVAL:
            return
        self._committed_at = time.monotonic()
        low_water = {place: self._book.low_water(place) for place in _assigned(app) if self._book.next(place)}
        new = {place: offset for place, offset in low_water.items() if offset > self._committed.get(place, 0)}
        if new:
            before = self._revoked
            await app.consumer._commit_offsets(
                {TP(place.topic, place.partition): offset for place, offset in new.items()}
            )
            if self._revoked == before:
                self._committed.update(new)


def _checkpoint(note: str) -> Message:
    """The message of ``ledger``: key = log."""
    origin = note.split("\n", 1)[0]
    return Message(origin.rpartition("/")[2].encode(), note.encode(), [("content-type", b"text/plain; charset=utf-8")])


def _headers(message: Any) -> Headers:
    try:
        return messages.headers(message)
    except EnvelopeError:
        return []


def _assigned(app: Any) -> set[Place]:
    return {Place(tp.topic, tp.partition) for tp in app.consumer.assignment()}


def known_policies(store: PolicyStore) -> Any:
    """A function that gives the SHA-256 of a policy by name and version: of the text that the event says was applied,
    else, for events that do not say, as it was set. None where neither is known."""

    def of(name: str, version: int) -> str | None:
        value = store.look(lambda register: register.history.get(name, {}).get(version))
        known = None if value is None else digest(value.value)
        applied = version.sha256 if isinstance(version, Version) else None
        if applied and known and applied != known:
            log.error("policy %s@%d: frames were masked by another text than the one that was set", name, version)
        return applied or known

    return of


def make_book(settings: Settings, keys: Keys, policies: PolicyStore) -> Book:
    rules = Rules(
        settings.ledger_segment_events,
        settings.ledger_segment_seconds,
        settings.ledger_grace,
        settings.raw_retention_minutes * 60.0,
    )
    topics = {settings.topic(topic): topic.name for topic in (AUDIT, DISCLOSURES)}
    return Book(keys.signer, rules, known_policies(policies), topics)


async def run(app: Any, stream: Any, settings: Settings) -> None:
    """The Faust agent's body. Does not return and does not raise: it leaves the process instead."""
    with exits.starting(KeyFileError, HeadError):
        keys = load(settings)
        policies, heads = PolicyStore(settings, keep_history=True), HeadStore(settings, keys)
        await asyncio.to_thread(policies.start)
        await asyncio.to_thread(heads.start)
        newest = max((head.at for head in heads.newest()), default=None)
        reports = ReportStore(settings, newest and min(newest, datetime.now(UTC)) - REPORTS_BEFORE)
        await asyncio.to_thread(reports.start)
        metrics.serve(settings)
    with exits.working(HeadError):
        producer = Producer(settings, client_id="sfumato-ledger")
        sealer = Sealer(settings, keys, make_book(settings, keys, policies), producer, heads)
        # A segment may stay open, and its events unacknowledged, for so long.
        patient = settings.model_copy(
            update={"stall_timeout": settings.stall_timeout + settings.ledger_segment_seconds}
        )
        Watchdog(
            app,
            patient,
            exits.restart,
            assigned=metrics.LEDGER_ASSIGNED,
            lag=metrics.LEDGER_LAG,
            progress=lambda: sealer.taken,
        ).start()
        app.on_partitions_revoked.connect(lambda *_, **__: sealer.revoke(), weak=False)

        async def finish(*_: Any, **__: Any) -> None:
            await sealer.finish()

        app.on_before_shutdown.connect(finish, weak=False)  # before Faust stops streams and consumer
        await sealer.run(app, stream, reports)
