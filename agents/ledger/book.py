"""The logs of the partitions that this process has: events in, signed checkpoints and heads out. No Kafka.

Two ledgers that have one partition at once cannot fork a log: each takes every offset from the head's on, in order, so
they come to the same leaves and can only cut them into other segments. Whoever is behind goes on from the head of the
one ahead, when it comes to the same root there. One that comes to another root signs nothing of that log any more.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sfumato.agents import metrics
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.entries import Entry, Place
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.schemas.head import Cover, Head, HeadError, Report
from sfumato.schemas.segment import Segment

log = logging.getLogger(__name__)

MOST_REPORTS = 64
"""Epochs of a camera of which the ingestor's last word is kept for whoever gets the camera's partition."""

MOST_CLAIMS = 16
"""Heads of one log that somebody wrote who is ahead of this process."""
OWN_HEADS = 10_000
"""Heads that this process wrote and knows again."""
EVERYTHING = range(2**63 - 1)
"""The offsets of a partition of which nothing is deleted, and whose end is not known."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a segment is sealed: after so many leaves, or seconds after its first event; and ``grace`` and ``raw``, in
    seconds (:meth:`~sfumato.agents.ledger.account.Log.notice`)."""

    events: int
    seconds: float
    grace: float
    raw: float


@dataclass(frozen=True, slots=True)
class Sealed:
    """A log's new head, to be published first; and the note of a new checkpoint, if there is one."""

    head: Head
    note: str = ""


class Book:
    """Not thread-safe. ``policy_sha256``: of a policy by name and version, None where it is not known; ``topics``: the
    names that the contract gives to the cluster's topics."""

    def __init__(
        self,
        signer: Signer,
        rules: Rules,
        policy_sha256: Callable[[str, int], str | None],
        topics: dict[str, str],
    ) -> None:
        self.logs: dict[str, Log] = {}
        self._signer = signer
        self.rules = rules
        self._policy_sha256 = policy_sha256
        self._topics = topics
        self._next: dict[Place, int] = {}
        self._cut: dict[Place, str] = {}
        """Partitions that are shorter than they were, and what is to be said of them."""
        self._homes: dict[str, Head] = {}
        self._claims: dict[str, dict[int, Head]] = {}
        self._reports: dict[str, dict[int, Report]] = {}
        self._sealed: list[Sealed] = []
        self._now = 0.0
        """The newest moment that the book was told: monotonic, in seconds."""
        self._own: OrderedDict[tuple[str, datetime], None] = OrderedDict()

    def open(
        self,
        place: Place,
        heads: Iterable[Head],
        covers: Iterable[Cover],
        segments: Iterable[Segment] = (),
        kept: range = EVERYTHING,
    ) -> list[str]:
        """Go on with a partition where the newest heads and covers, of all partitions, say. The notes of its logs: each
        may not have been published when its ledger was killed.

        ``segments``: what is known to be published, of all partitions; ``kept``: the offsets that the broker has of
        this one. Raises :class:`HeadError` where a log that was sealed has no head, or one from which it cannot come
        to what was sealed: it would begin anew, and fork. ValueError where a head contradicts itself."""
        for head in heads:
            self._homes[head.log] = head
            if (head.topic, head.partition) == (place.topic, place.partition):
                self._adopt(head)
        here = [cover for cover in covers if (cover.topic, cover.partition) == (place.topic, place.partition)]
        cover = here[0] if here else self.cover(place).model_copy(update={"offset": 0, "sizes": {}})
        source = self._topics.get(place.topic, place.topic), place.partition
        sealed = [each for each in segments if (each.source.topic, each.source.partition) == source]
        self._next[place] = self._reach(cover, sealed, kept)
        reached = {cover.offset, *(found.next_offset for found in self._at(place))}
        self._end_at(place, kept.stop, max(reached | {each.source.last_offset + 1 for each in sealed}))
        return [found.note for found in self._at(place) if found.note]

    def _reach(self, cover: Cover, sealed: Iterable[Segment], kept: range) -> int:
        """The first offset that may not be in its log. A log may have an older head than the cover knows of, or than
        is published: from there it comes to the same leaves, where their events are not deleted."""
        reached = cover.offset
        sizes = Counter(cover.sizes)
        for each in sealed:
            sizes[each.log] = max(sizes[each.log], each.size)
        for name, size in sizes.items():
            found = self.logs.get(name)
            if name not in self._homes:
                if size:
                    raise HeadError(name, f"{size} leaves of it are sealed, and its head is gone")
                reached = 0  # nothing of it was sealed yet
            if found is None or found.tree.end >= size:
                continue
            covered = found.tree.end >= cover.sizes.get(name, 0)
            begin = max(found.next_offset, cover.offset) if covered else found.next_offset
            if begin < kept.start and not found.stopped:
                why = f"{size} leaves of it are sealed, its head has {found.tree.end}, and events between are deleted"
                raise HeadError(name, why)
            reached = min(reached, begin)
        return reached

    def end_at(self, place: Place, end: int) -> None:
        """Tell where an open partition ends, as the broker says. Where more was read of it, it was cut or made anew:
        other events have the offsets of those that were sealed, so none of its logs goes on."""
        self._end_at(place, end, self._next[place])

    def _end_at(self, place: Place, end: int, reached: int) -> None:
        if end >= reached or place in self._cut:
            return
        self._cut[place] = f"{place} ends at offset {end}, and was read up to {reached}: was it made anew?"
        log.critical("%s; docs/ledger.md says what to do", self._cut[place])
        for found in list(self._at(place)):
            self._stop(found, self._cut[place])

    def next(self, place: Place) -> int | None:
        """The offset from which the partition is to be read on; None: it is not open."""
        return self._next.get(place)

    def close(self) -> None:
        """The partitions were revoked: whoever gets them goes on from the heads."""
        for found in (self.logs, self._next, self._cut, self._homes, self._claims, self._sealed):
            found.clear()

    def take(self, place: Place, offset: int, entry: Entry, now: float) -> None:
        """Take an event in; within a partition in the order of offsets. ``now``: monotonic, in seconds."""
        self._now = now
        self._next[place] = offset + 1
        found = self.logs.get(entry.log) or self._make(entry.log, place)
        if found.place != place:
            self._stop(found, f"its events come from {place}, not from {found.place} as before: were partitions added?")
        if found.stopped:
            metrics.LEDGER_LEFT_OUT.labels(entry.log).inc()
            return
        if offset < found.next_offset:
            return  # its head covers it
        if not found.take(entry, offset, now):
            return
        claims = self._claims.get(entry.log)
        if claims and found.size in claims:
            self._settle(found, claims.pop(found.size))
        elif len(found.tally.hashes) >= self.rules.events:
            self._seal(found)

    def take_report(self, camera: str, report: Report, now: float) -> None:
        """The ingestor's word on an epoch."""
        self._now = now
        kept = self._reports.setdefault(camera, {})
        kept[report.epoch] = report
        if len(kept) > MOST_REPORTS:
            del kept[min(kept)]
        if camera in self.logs:
            self.logs[camera].take_report(report, now)

    def claim(self, head: Head) -> None:
        """A head that somebody wrote, perhaps this process: it must be one that this log has, had or will have."""
        found = self.logs.get(head.log)
        if (head.log, head.at) in self._own:
            return
        if found is None:
            if Place(head.topic, head.partition) not in self._next:
                self._homes[head.log] = head
                return
            found = self.logs[head.log] = Log(head.log, Place(head.topic, head.partition))
        if head.stopped:
            self._stop(found, head.stopped)
        elif head.size > found.size:
            claims = self._claims.setdefault(head.log, {})
            claims[head.size] = head
            if len(claims) > MOST_CLAIMS:
                del claims[min(claims)]
        else:
            root = found.root_at(head.size)
            if root is not None and root.hex() != _root(head):
                self._contradicted(found, head)

    def due(self, now: float, everything: bool = False) -> None:
        """Look after what no event brings about: frames that are overdue, and segments that are."""
        for found in self.logs.values():
            missing = 0 if found.stopped else found.notice(now, self.rules.grace, self.rules.raw)
            if missing:
                log.error("camera %s: %d frames have no audit event", found.name, missing)
                metrics.LEDGER_MISSING.labels(found.name).inc(missing)
            opened = found.tally.opened_at
            if opened is not None and (everything or now - opened >= self.rules.seconds):
                self._seal(found)

    def cover(self, place: Place) -> Cover:
        """What is sealed of a partition; to be published after the heads."""
        sizes = {found.name: found.tree.end for found in self._at(place)}
        offset = self.low_water(place)
        return Cover(origin=self._signer.name, topic=place.topic, partition=place.partition, offset=offset, sizes=sizes)

    def sealed(self) -> list[list[Sealed]]:
        """What is to be published, in rounds; each is given once. A round has one head of a log at most, and is to be
        out before the next: the newest head is all that is known of a log after a kill."""
        rounds: list[dict[str, Sealed]] = [{}]
        for each in self._sealed:
            if each.head.log in rounds[-1]:
                rounds.append({})
            rounds[-1][each.head.log] = each
        self._sealed = []
        return [list(found.values()) for found in rounds if found]

    def low_water(self, place: Place) -> int:
        """The first offset of the partition that may not be covered by what was sealed."""
        unsealed = (found.unsealed_from for found in self._at(place) if not found.stopped)
        return min((offset for offset in unsealed if offset is not None), default=self._next.get(place, 0))

    def _at(self, place: Place) -> Iterator[Log]:
        return (found for found in self.logs.values() if found.place == place)

    def _make(self, name: str, place: Place) -> Log:
        home = self._homes.get(name)
        if home is None:
            found = self.logs[name] = Log(name, place)
            for report in self._reports.get(name, {}).values():
                found.take_report(report, self._now)
            if place in self._cut:
                self._stop(found, self._cut[place])
            return found
        return self._adopt(home)  # it lies in a partition that is another's, and will be stopped

    def _adopt(self, head: Head) -> Log:
        found = self.logs[head.log] = Log.from_head(head)
        for report in self._reports.get(head.log, {}).values():
            found.take_report(report, self._now)
        if found.stopped:
            log.critical("log %s is stopped: %s", found.name, found.stopped)
        metrics.LEDGER_STOPPED.labels(found.name).set(bool(found.stopped))
        return found

    def _settle(self, found: Log, head: Head) -> None:
        """The log has as many leaves as somebody's head."""
        root = found.root_at(head.size)
        if root is None or root.hex() != _root(head):
            self._contradicted(found, head)
        else:
            self._adopt(head)
            if not found.stopped:  # whoever wrote the head may have been killed before its checkpoint was out
                self._sealed.append(Sealed(self._head(self.logs[head.log]), head.note))

    def _contradicted(self, found: Log, head: Head) -> None:
        self._stop(found, f"two heads of {head.size} leaves are signed that have not the same root")

    def _stop(self, found: Log, why: str) -> None:
        """Sign nothing of a log any more, and leave that in its head."""
        if found.stopped:
            return
        log.critical("log %s is stopped: %s", found.name, why)
        found.stopped = why
        metrics.LEDGER_STOPPED.labels(found.name).set(1)
        self._sealed.append(Sealed(self._head(found)))

    def _seal(self, found: Log) -> None:
        if found.stopped or not found.tally.hashes:
            found.covered()
            if not found.stopped:
                self._sealed.append(Sealed(self._head(found)))
            return
        topic = self._topics.get(found.place.topic, found.place.topic)
        segment = found.seal(topic, datetime.now(UTC), self._policy_sha256)
        line = segment.model_dump_json(exclude_defaults=True)
        checkpoint = Checkpoint(f"{self._signer.name}/{found.name}", segment.size, found.tree.root(), (line,))
        found.note = self._signer.sign(checkpoint.text())
        metrics.count_segment(segment)
        if segment.duplicates:
            told = "log %s, leaves %d to %d: %d events of what has a leaf already, %d of them say another outcome"
            log.warning(told, found.name, segment.first, segment.size - 1, segment.duplicates, segment.conflicting)
        self._sealed.append(Sealed(self._head(found), found.note))

    def _head(self, found: Log) -> Head:
        head = found.head(self._signer.name, datetime.now(UTC))
        self._own[head.log, head.at] = None
        if len(self._own) > OWN_HEADS:
            self._own.popitem(last=False)
        return head


def _root(head: Head) -> str:
    """The root that a head's note states; a head that was read has one that fits."""
    return Checkpoint.parse(head.note.rpartition("\n\n")[0] + "\n").root.hex() if head.note else ""
