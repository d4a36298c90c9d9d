"""The logs of a ledger without a broker: sealed whole after any kill, and never forked, whoever seals them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents import metrics
from sfumato.agents.ledger.book import EVERYTHING, Book, Sealed
from sfumato.agents.ledger.entries import Entry, Place, read_audit
from sfumato.agents.ledger.gauges import Gauges, Unread
from sfumato.agents.ledger.note import Checkpoint, open_note
from sfumato.agents.ledger.tree import Range, leaf_hash
from sfumato.schemas.head import Cover, Head, HeadError, Report
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import Segment
from tests.ledgering import NOW, PLACE, SIGNER, entry, make_book

READ = Unread(0, 0.0)


def flat(book: Book) -> list[Sealed]:
    return [each for found in book.sealed() for each in found]


def topic(seed: int, count: int = 120) -> list[Entry]:
    """A partition of two cameras, with duplicates, gaps and unreadable messages."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        camera, sequence = chance.choice(["north", "south"]), chance.randrange(50)
        garbage = read_audit(None, b"%d" % chance.randrange(4), 0)
        found.append(garbage if chance.random() < 0.1 else entry(sequence, camera=camera))
    return found


def roots(entries: list[Entry]) -> dict[str, dict[int, str]]:
    """By log and size, the only heads that a log of these may ever have."""
    trees: dict[str, Range] = {}
    seen: set[tuple[str, object]] = set()
    found: dict[str, dict[int, str]] = {}
    for each in entries:
        tree = trees.setdefault(each.log, Range())
        if (each.log, each.identity) not in seen:
            seen.add((each.log, each.identity))
            tree.append(leaf_hash(each.value))
            found.setdefault(each.log, {})[tree.end] = tree.root().hex()
    return found


def segment(note: str) -> Segment:
    return Segment.parse(Checkpoint.parse(open_note(note, SIGNER.verifier)).extensions[0])


class Newest:
    """The compacted topic of heads, as two ledgers write and read it."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.covers: list[Cover] = []
        self.notes: list[str] = []
        self.older: list[Head | Cover] = []
        """All that was ever written: signed, so it can be written again."""

    def write(self, book: Book, other: Book | None = None, most: int = 10**6) -> None:
        """Of what the book has sealed, ``most`` messages reach the topics before it is killed."""
        rounds = book.sealed()
        messages: list[Head | Cover | str] = []
        for sealed in rounds:
            messages += [each.head for each in sealed] + [each.note for each in sealed if each.note]
        messages += [book.cover(PLACE)] * bool(rounds)
        for message in messages[:most]:
            if isinstance(message, str):
                self.notes.append(message)
            elif isinstance(message, Cover):
                self.covers = [message]
                self.older.append(message)
            else:
                self.older.append(message)
                head = Head.from_message(message.to_message().value)
                self.heads[head.log] = head  # also an older one over a newer one
                if other is not None:
                    other.claim(head)

    def open(self, book: Book, kept: range = EVERYTHING) -> int:
        self.notes += book.open(PLACE, self.heads.values(), self.covers, map(segment, self.notes), kept)
        return book.next(PLACE)

    def replay(self, chance: random.Random) -> None:
        """Somebody without the key writes older heads and covers over the newest, and the topic is compacted."""
        for record in chance.sample(self.older, len(self.older)):
            if isinstance(record, Cover):
                self.covers = [record]
            else:
                self.heads[record.log] = record

    def assert_no_fork(self, entries: list[Entry], everything: bool = True) -> None:
        right = roots(entries)
        sizes: dict[str, set[int]] = {}
        firsts: dict[str, set[int]] = {}
        for note in self.notes:
            checkpoint = Checkpoint.parse(open_note(note, SIGNER.verifier))
            sealed = segment(note)
            assert right[sealed.log][sealed.size] == sealed.root == checkpoint.root.hex()
            assert sealed.first == 0 or right[sealed.log][sealed.first] == sealed.previous_root
            sizes.setdefault(sealed.log, {0}).add(sealed.size)
            firsts.setdefault(sealed.log, set()).add(sealed.first)
        assert all(found <= sizes[log] for log, found in firsts.items())  # each goes on from another
        if everything:
            assert {log: max(found) for log, found in sizes.items()} == {
                log: max(found) for log, found in right.items()
            }


@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_ledger_that_is_killed_again_and_again_seals_the_topic(seed, kills):
    """Killed after so many events, and with only some of its messages out."""
    entries, newest = topic(seed), Newest()
    for taken, reached in [*kills, (10**6, 10**6)]:
        book = make_book()
        begin = newest.open(book)
        for offset, each in enumerate(entries[begin : begin + taken], begin):
            book.take(PLACE, offset, each, 0.0)
            if offset % 7 == 0:
                newest.write(book)
        book.due(0.0, everything=True)
        newest.write(book, most=reached)
    newest.assert_no_fork(entries)
    assert book.low_water(PLACE) == len(entries)


@given(st.integers(0, 10**6), st.lists(st.tuples(st.booleans(), st.integers(1, 25), st.booleans()), max_size=25))
@settings(max_examples=50, deadline=None)
def test_two_ledgers_at_once_do_not_fork(seed, turns):
    """Both go over the same partition at their own pace, sealing at other places, each hearing of the other's heads,
    and begin anew from whichever head was written last."""
    entries, newest = topic(seed), Newest()
    books = [make_book(events=5), make_book(events=3)]
    for book in books:
        newest.open(book)
    for which, count, restarts in [*turns, (False, 10**6, False), (True, 10**6, False)]:
        book, other = books[which], books[not which]
        if restarts:
            book = books[which] = make_book()
            newest.open(book)
        begin = book.next(PLACE)
        for offset, each in enumerate(entries[begin : begin + count], begin):
            book.take(PLACE, offset, each, 0.0)
        book.due(0.0, everything=count % 2 == 0)
        newest.write(book, other)
    newest.assert_no_fork(entries)
    assert not any(log.stopped for book in books for log in book.logs.values())


@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_older_heads_and_covers_written_over_newer_ones_fork_nothing(seed, turns):
    """Whoever may write the topic, without the key, can only do that. A ledger comes to the same leaves again, or,
    where their events are deleted, does not go on."""
    chance, entries, newest = random.Random(seed), topic(seed), Newest()
    kept = range(len(entries))
    for count, deletes in [*turns, (10**6, False)]:
        book = make_book(events=chance.choice([3, 5]))
        try:
            begin = max(newest.open(book, kept), kept.start)
        except HeadError:
            assert kept.start
            break
        for offset, each in enumerate(entries[begin : begin + count], begin):
            book.take(PLACE, offset, each, 0.0)
        book.due(0.0, everything=True)
        newest.write(book)
        assert not any(log.stopped for log in book.logs.values())
        if deletes:
            kept = range(book.low_water(PLACE), len(entries))  # what is sealed is old enough
        newest.replay(chance)
    newest.assert_no_fork(entries, everything=not kept.start)


def test_a_log_that_was_sealed_and_has_no_head_does_not_begin_anew():
    book, newest = make_book(), Newest()
    newest.open(book)
    for offset in range(10):
        book.take(PLACE, offset, entry(offset), 0.0)
        book.take(PLACE, offset, entry(offset, camera="south"), 0.0)
    newest.write(book)
    del newest.heads["north"]
    sealed = list(map(segment, newest.notes))
    lost = "ledger.heads: log north: 10 leaves of it are sealed, and its head is gone; docs/ledger.md says what to do"
    for covers, segments in ((newest.covers, []), ([], sealed)):
        with pytest.raises(HeadError) as refused:
            make_book().open(PLACE, newest.heads.values(), covers, segments)
        assert str(refused.value) == lost
    elsewhere = Place(PLACE.topic, 1)  # whose logs have all their heads
    make_book().open(elsewhere, newest.heads.values(), newest.covers, sealed)
    make_book().open(PLACE, newest.heads.values(), [], [each for each in sealed if each.log == "south"])


def test_an_old_head_is_refused_whose_events_are_deleted():
    book, newest = make_book(), Newest()
    newest.open(book)
    for offset in range(5):
        book.take(PLACE, offset, entry(offset), 0.0)
    newest.write(book)
    old_head, old_covers = newest.heads["north"], newest.covers
    for offset in range(5, 15):
        book.take(PLACE, offset, entry(offset), 0.0)
    newest.write(book)
    newest.open(make_book(), range(20, 30))  # nothing of what is sealed has to be read again
    newest.heads["north"] = old_head
    for covers in (newest.covers, old_covers):  # the one says so, or what is published
        newest.covers = covers
        assert newest.open(make_book(), range(5, 30)) == 5
        with pytest.raises(
            HeadError, match="15 leaves of it are sealed, its head has 5, and events between are deleted"
        ):
            newest.open(make_book(), range(6, 30))


@pytest.mark.parametrize("witness", ["head", "cover", "checkpoint", "none"])
def test_a_partition_that_is_shorter_than_it_was_stops_its_logs(witness):
    """Cut, or made anew: other events have the offsets that were read. Whatever is left says how far that was."""
    book, newest = make_book(), Newest()
    newest.open(book)
    book.take(PLACE, 0, entry(0), 0.0)
    book.due(0.0, everything=True)
    newest.write(book)
    old = newest.heads, newest.covers
    if witness != "none":
        newest.heads, newest.covers = dict(old[0]), list(old[1])
        for offset in range(1, 10):
            book.take(PLACE, offset, entry(offset), 0.0)
        book.due(0.0, everything=True)
        newest.write(book)
        heads = newest.heads if witness == "head" else old[0]
        covers = newest.covers if witness == "cover" else old[1]
        segments = [segment(note) for note in newest.notes] if witness == "checkpoint" else []
        again = make_book()
        again.open(PLACE, heads.values(), covers, segments, range(10))
        assert not again.logs["north"].stopped
        again = make_book()
        again.open(PLACE, heads.values(), covers, segments, range(9))
        reached = 10
    else:  # it was longer when the ledger opened it
        again, reached = book, 1
        again.end_at(PLACE, 1)
        assert not again.logs["north"].stopped
        again.end_at(PLACE, 0)
    assert f"and was read up to {reached}: was it made anew?" in again.logs["north"].stopped
    assert metrics.LEDGER_STOPPED.labels("north")._value.get() == 1
    for offset in range(reached, 30):
        again.take(PLACE, offset, entry(offset), 0.0)
        again.take(PLACE, offset, entry(offset, camera="south"), 0.0)
    again.due(0.0, everything=True)
    assert [(each.note, bool(each.head.stopped)) for each in flat(again)] == [("", True)] * 2


def test_a_report_from_before_the_log_was_opened_does_not_make_its_segment_old():
    book = make_book(events=10, seconds=600.0)
    book.take_report("north", Report(epoch=1, last_sent=5, dropped={Reason.QUEUE_FULL: 3}, ended=True), 1000.0)
    book.open(PLACE, [], [])
    for offset in range(6):
        book.take(PLACE, offset, entry(offset), 1001.0)
    book.due(1599.0)
    assert book.sealed() == []
    book.due(1601.0)
    ((sealed,),) = book.sealed()
    assert sealed.head.size == 6


def test_a_head_that_contradicts_a_log_stops_it_for_good():
    """Signed by the same key, of other leaves: somebody has rewritten the topic, or has another one."""
    other, newest = make_book(), Newest()
    other.open(PLACE, [], [])
    for offset in range(5):
        other.take(PLACE, offset, entry(offset, took=1.0), 0.0)
    (claim,) = (each.head for each in flat(other))
    for earlier in (True, False):
        book = make_book(events=3)
        book.open(PLACE, [], [])
        if earlier:  # it is known before the log is that long
            book.claim(claim)
        for offset in range(6):
            book.take(PLACE, offset, entry(offset), 0.0)
        book.claim(claim)
        assert "not the same root" in book.logs["north"].stopped
        signed = [each for each in flat(book) if each.note]
        assert [each.head.size for each in signed] == ([3] if earlier else [3, 6])
        for offset in range(6, 30):
            book.take(PLACE, offset, entry(offset), 0.0)
            book.take(PLACE, offset, entry(offset, camera="south"), 0.0)
        book.due(0.0, everything=True)
        assert {each.head.log for each in flat(book) if each.note} == {"south"}
        assert book.low_water(PLACE) == 30  # nothing waits for it
        stopped = book.logs["north"].head("city.example", NOW)
        again = make_book()
        again.open(PLACE, [stopped], [])
        again.take(PLACE, 40, entry(40), 0.0)
        again.due(0.0, everything=True)
        assert again.sealed() == []
        heard = make_book()
        heard.open(PLACE, [], [])
        heard.take(PLACE, 0, entry(0), 0.0)
        heard.claim(stopped)
        assert heard.logs["north"].stopped
    newest.assert_no_fork([], everything=False)


def test_a_camera_that_comes_from_another_partition_is_stopped():
    book = make_book()
    book.open(PLACE, [], [])
    book.take(PLACE, 0, entry(0), 0.0)
    book.due(0.0, everything=True)
    (sealed,) = flat(book)
    there = Place(PLACE.topic, 1)
    for moved in (make_book(), book):  # the partition has another ledger, or the same
        moved.open(there, [sealed.head], [])
        moved.take(there, 0, entry(1), 0.0)
        moved.due(0.0, everything=True)
        (stopped,) = flat(moved)
        assert not stopped.note
        assert "were partitions added?" in stopped.head.stopped
        assert (stopped.head.size, stopped.head.partition) == (1, 0)


def test_what_is_no_leaf_is_remembered_and_nothing_is_sealed_for_it(caplog):
    book = make_book()
    book.open(PLACE, [], [])
    book.take(PLACE, 0, entry(0), 0.0)
    book.due(9.0)
    assert book.sealed() == []
    book.due(10.0)
    (first,) = flat(book)
    book.take(PLACE, 1, entry(0, Outcome.DROPPED, Reason.LATE), 20.0)
    assert book.low_water(PLACE) == 1
    book.due(30.0)
    (second,) = flat(book)
    assert (second.note, second.head.note, second.head.size, second.head.next_offset) == ("", first.note, 1, 2)
    assert book.low_water(PLACE) == 2
    book.due(10**6)
    assert book.sealed() == []
    again = make_book()
    assert again.open(PLACE, [second.head], []) == [first.note]
    again.take(PLACE, 2, entry(1), 0.0)
    again.due(0.0, everything=True)
    (third,) = flat(again)
    found = segment(third.note)
    assert (found.first, found.size, found.duplicates, found.conflicting) == (1, 2, 1, 1)
    assert "log north, leaves 1 to 1: 1 events of what has a leaf already, 1 of them say another" in caplog.text


def test_how_far_a_log_is_behind_counts_what_is_not_sealed_and_what_is_not_read():
    """By the broker's clock: an hour that the ledger was down is an hour, however fast it reads afterwards."""
    book = make_book(events=3)
    gauges = Gauges(book)

    def behind(unread: Unread = READ, log: str = "north") -> tuple[float, float]:
        gauges.show(0.0, 5000.0, {PLACE: unread})
        found = metrics.LEDGER_BEHIND_SECONDS, metrics.LEDGER_BEHIND
        return tuple(gauge.labels(log)._value.get() for gauge in found)

    def take(offset: int, sequence: int, written_at: float, camera: str = "north") -> None:
        taken = entry(sequence, camera=camera)
        taken.written_at = written_at
        book.take(PLACE, offset, taken, 0.0)

    take(0, 0, 1400.0)
    take(1, 1, 4900.0)
    assert behind() == (3600.0, 2)
    take(2, 2, 4990.0)  # the third seals them
    assert behind() == (0.0, 0)
    take(3, 0, 4999.0, camera="south")
    assert behind() == (0.0, 0)
    assert behind(log="south") == (1.0, 1)
    assert behind(Unread(40, 4980.0)) == (20.0, 40)  # of which camera they are is not known
    assert behind(Unread(40, 4980.0), "south") == (20.0, 41)
    gauges.clear()
    assert next(iter(metrics.LEDGER_BEHIND.collect())).samples == []
