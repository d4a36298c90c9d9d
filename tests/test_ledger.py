"""The ledger without a broker: what becomes a leaf, what is told of it, and that no log forks whoever seals it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from sfumato.agents import metrics
from sfumato.agents.ledger import account
from sfumato.agents.ledger.account import RAW_SECONDS, Log
from sfumato.agents.ledger.book import Book, Rules, Sealed
from sfumato.agents.ledger.entries import Entry, Place, read_audit, read_disclosure
from sfumato.agents.ledger.gauges import Gauges, Unread, balance
from sfumato.agents.ledger.note import Checkpoint, Signer, open_note
from sfumato.agents.ledger.tree import Range, leaf_hash
from sfumato.agents.sequences import Sequences
from sfumato.schemas.head import Cover, Head, Report
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import Conflict, Run, Segment
from tests.ledgering import NOW, event

SCHEMA = Path(__file__).parent.parent / "docs" / "segment.schema.json"
SIGNER = Signer("city.example", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
PLACE = Place("t.audit", 0)
GRACE = 60.0
READ = Unread(0, 0.0)


def entry(*arguments, **changes) -> Entry:
    message = event(*arguments, **changes).to_message()
    return read_audit(message.key, message.value, 0)


def filled(*sequences: int) -> Log:
    log = Log("north", PLACE)
    for offset, sequence in enumerate(sequences):
        log.take(entry(sequence), offset, 0.0)
    return log


def seal(log: Log) -> Segment:
    return log.seal("audit", NOW, lambda name, version: "d" * 64 if (name, version) == ("north", 1) else None)


def make_book(events: int = 5, seconds: float = 10.0) -> Book:
    return Book(SIGNER, Rules(events, seconds, GRACE), lambda name, version: None, {PLACE.topic: "audit"})


def test_an_event_belongs_to_its_cameras_log():
    read = entry(7, Outcome.FULLY_MASKED, Reason.NO_POLICY)
    assert (read.log, read.identity, read.outcome, read.reason) == ("north", (1, 7), "fully_masked", "no_policy")
    assert (read.policy, read.detectors) == (("north", 1), (("centerface", "c" * 64),))


GOOD = json.loads(event(3).to_message().value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[1]",
        b"{}",
        *(
            json.dumps({**GOOD, **changed}).encode()
            for changed in (
                {"camera": None},
                {"camera": "South Pole"},
                {"camera": "south"},
                {"epoch": -1},
                {"epoch": "1"},
                {"sequence": True},
                {"sequence": 2**63},
                {"sequence": 1.0},
            )
        ),
    ],
)
def test_what_names_no_frame_goes_to_its_partitions_log(value):
    read = read_audit(b"north", value, 3)
    assert read.log == "_unreadable-3"
    assert read == read_audit(b"north", value, 3)
    assert isinstance(read.identity, str)
    assert read.value == value


@pytest.mark.parametrize(
    ("rest", "sequence"),
    [
        (b'"detail":"', None),
        (b'"detail":"\\ud800"', None),
        (b'"detail":"\xff"', None),
        (b'"detail":' + b"[" * 1000 + b"]" * 1000, None),
        (b'"detail":' + b"1" * 5000, None),
        (b'"width":01', None),
        (b'"width":1}{"height":1', None),
        (b'"width":NaN', 3),
        (b'"detail":{"sequence":4}', 3),
        (b'"sequence":4', 4),
        (b'"s\\u0065quence":4', 4),
        (b'"sequence":4,"sequence":"4"', None),
    ],
)
def test_what_is_not_read_of_an_event_has_to_be_json_too(rest, sequence):
    """Where a leaf goes must not depend on how a ledger parses: another one has to come to the same."""
    value = event(3).to_message().value[:-1] + b"," + rest + b"}"
    read = read_audit(b"north", value, 0)
    assert (read.log, read.value) == ("_unreadable-0" if sequence is None else "north", value)
    assert sequence is None or read.identity == (1, sequence)
    try:
        parsed = from_json(value)
    except ValueError:
        parsed = {"sequence": None}
    assert (parsed["sequence"] if type(parsed["sequence"]) is int else None) == sequence


@pytest.mark.parametrize(
    "changed", [{"outcome": "new"}, {"reason": "no_policy"}, {"outcome": "dropped"}, {"outcome": 1}]
)
def test_an_unknown_outcome_is_a_leaf_of_its_camera_and_counted(changed):
    read = read_audit(b"north", json.dumps({**GOOD, **changed}).encode(), 0)
    assert (read.log, read.identity, read.outcome) == ("north", (1, 3), None)
    log = Log("north", PLACE)
    assert log.take(read, 0, 0.0)
    segment = seal(log)
    assert (segment.invalid, segment.outcomes, segment.size) == (1, {}, 1)
    assert balance(log)["unaccounted"] == 4


def test_disclosures_are_told_apart_by_their_id():
    first, again = read_disclosure(b"1", b"{}"), read_disclosure(b"1", b"{ }")
    assert first.identity == again.identity != read_disclosure(b"2", b"{}").identity
    assert read_disclosure(None, b"{}").identity == read_disclosure(None, b"{}").identity != first.identity


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=30))
@settings(deadline=None)
def test_runs_of_sequences_are_sets(added):
    sequences, plain = Sequences(), set()
    for first, more in added:
        sequences.add_run(first, first + more)
        plain |= set(range(first, first + more + 1))
    assert [n for first, last in sequences.runs for n in range(first, last + 1)] == sorted(plain)
    assert Sequences(sequences.runs).runs == sequences.runs
    assert all((number in sequences) == (number in plain) for number in range(75))
    assert [n for first, last in sequences.gaps(70) for n in range(first, last + 1)] == sorted({*range(71)} - plain)


@pytest.mark.parametrize("runs", [[(3, 2)], [(0, 1), (2, 3)], [(-1, 1)], [(5, 6), (0, 1)]])
def test_runs_that_are_none(runs):
    with pytest.raises(ValueError, match="ascending and apart"):
        Sequences(runs)


def test_a_segment_says_what_its_events_come_to():
    log = filled(0, 1)
    log.take(entry(2, Outcome.DROPPED, Reason.EMPTY), 5, 0.0)
    segment = seal(log)
    assert (segment.first, segment.size, segment.outcomes) == (0, 3, {"masked": 2, "dropped": 1})
    assert (segment.reasons, segment.runs) == ({"empty": 1}, (Run(epoch=1, first=0, last=2),))
    assert (segment.source.topic, segment.source.first_offset, segment.source.last_offset) == ("audit", 0, 5)
    assert (segment.policies, segment.detectors) == ({"north@1": "d" * 64}, {"centerface": ("c" * 64,)})
    assert log.tally.opened_at is None
    log.take(entry(3), 6, 0.0)
    assert seal(log).previous_root == segment.root
    line = segment.model_dump_json(exclude_defaults=True)
    assert Segment.parse(line) == segment
    assert json.loads(SCHEMA.read_text()) == Segment.model_json_schema()
    jsonschema.validate(json.loads(line), json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)


def test_the_first_event_counts_and_one_that_contradicts_it_is_told():
    log = filled(0, 1, 2)
    assert not log.take(entry(1, took=2.0), 3, 0.0)
    assert not log.take(entry(2, Outcome.DROPPED, Reason.NO_KEYFRAME), 4, 0.0)
    segment = seal(log)
    assert (segment.size, segment.outcomes, segment.duplicates, segment.conflicting) == (3, {"masked": 3}, 2, 1)
    assert segment.conflicts == (Conflict(epoch=1, sequence=2, first="masked", later="dropped"),)


def test_frames_out_of_order_are_told_and_not_missing():
    log = filled(0, 2, 1, 3)
    assert log.notice(10**6, GRACE) == 0
    segment = seal(log)
    assert (segment.reordered, segment.missing, segment.runs) == (1, (), (Run(epoch=1, first=0, last=3),))


def test_a_gap_is_missing_once_it_is_old_and_once_only():
    log = filled(0, 1, 5, 6)
    assert log.notice(100.0, GRACE) == log.notice(100.0 + GRACE - 1, GRACE) == 0
    assert log.notice(100.0 + GRACE, GRACE) == 3
    assert log.notice(10**6, GRACE) == 0
    assert seal(log).missing == (Run(epoch=1, first=2, last=4),)
    assert log.take(entry(3), 9, 0.0)
    segment = seal(log)
    assert (segment.found_late, segment.missing, segment.reordered) == (1, (), 1)
    assert log.notice(10**6, GRACE) == 0


def test_the_end_of_an_epoch_is_missing_once_raw_frames_are_gone():
    log = filled(0, 1)
    log.take_report(Report(epoch=1, last_sent=4), 0.0)
    assert log.notice(0.0, GRACE) == log.notice(10**6, GRACE) == 0  # still on their way, for all that is known
    log.take_report(Report(epoch=1, last_sent=4, ended=True), 0.0)
    assert log.notice(0.0, GRACE) == log.notice(GRACE, GRACE) == 0
    assert log.notice(GRACE + RAW_SECONDS, GRACE) == 3
    assert log.tally.missing == [Run(epoch=1, first=2, last=4)]


def test_what_the_ingestor_dropped_is_told_once():
    log = filled(0)
    log.take_report(Report(epoch=1, last_sent=0, dropped={Reason.QUEUE_FULL: 3}), 0.0)
    assert seal(log).ingest_dropped == {"queue_full": 3}
    log.take_report(Report(epoch=1, last_sent=1, dropped={Reason.QUEUE_FULL: 3}), 0.0)
    assert log.tally.opened_at is None
    log.take_report(Report(epoch=1, last_sent=1, dropped={Reason.QUEUE_FULL: 4, Reason.EMPTY: 1}), 0.0)
    log.take(entry(1), 1, 0.0)
    assert seal(log).ingest_dropped == {"queue_full": 1, "empty": 1}
    counts = {"ingested": 7, "masked": 2, "fully_masked": 0, "dropped": 5, "unaccounted": 0}
    assert balance(log) == counts


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.booleans()), max_size=60), st.integers(0, 60))
@settings(deadline=None)
def test_a_log_goes_on_from_its_head_as_if_nothing_had_been(events, cut):
    """Whatever came before: leaves, what is known of duplicates, and what is to be told."""
    entries = [
        entry(sequence, *((Outcome.DROPPED, Reason.LATE) if dropped else ()), epoch=epoch)
        for epoch, sequence, dropped in events
    ]
    whole, halved = Log("north", PLACE), Log("north", PLACE)
    for offset, each in enumerate(entries):
        if offset == cut:
            for log in (whole, halved):
                if log.tally.hashes:
                    seal(log)
            written = halved.head("city.example", NOW).to_message()
            halved = Log.from_head(Head.from_message(written.value))
            assert written.key == b"north"
        assert whole.take(each, offset, 0.0) == halved.take(each, offset, 0.0)
    assert halved.head("city.example", NOW) == whole.head("city.example", NOW)
    if whole.tally.hashes:
        assert seal(halved).model_dump(exclude={"source"}) == seal(whole).model_dump(exclude={"source"})


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(account, "MOST_EPOCHS", 3)
    monkeypatch.setattr(account, "MOST_RUNS", 10)
    monkeypatch.setattr(account, "REMEMBERED", 20)
    log = Log("north", PLACE)
    for number, epoch in enumerate((1, 2, 3, 1, 4)):
        log.take(entry(number, epoch=epoch), number, 0.0)
    assert list(log.epochs) == [3, 1, 4]
    for sequence in range(0, 100, 2):
        log.take(entry(sequence, epoch=5), sequence, 0.0)
    assert list(log.epochs) == [5]
    assert log.epochs[5].audited.pieces == 10
    assert sum(len(letters) for _, _, letters in log.head("x", NOW).recent) == 20
    unreadable = Log("_unreadable-0", PLACE)
    for number in range(30):
        unreadable.take(read_audit(None, b"%d" % number, 0), number, 0.0)
    assert len(unreadable.head("x", NOW).ids) == 20


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


class Newest:
    """The compacted topic of heads, as two ledgers write and read it."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.covers: list[Cover] = []
        self.notes: list[str] = []

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
            else:
                head = Head.from_message(message.to_message().value)
                self.heads[head.log] = head  # also an older one over a newer one
                if other is not None:
                    other.claim(head)

    def open(self, book: Book) -> int:
        self.notes += book.open(PLACE, self.heads.values(), self.covers)
        return book.next(PLACE)

    def assert_no_fork(self, entries: list[Entry], everything: bool = True) -> None:
        right = roots(entries)
        sizes: dict[str, set[int]] = {}
        firsts: dict[str, set[int]] = {}
        for note in self.notes:
            checkpoint = Checkpoint.parse(open_note(note, SIGNER.verifier))
            segment = Segment.parse(checkpoint.extensions[0])
            assert right[segment.log][segment.size] == segment.root == checkpoint.root.hex()
            assert segment.first == 0 or right[segment.log][segment.first] == segment.previous_root
            sizes.setdefault(segment.log, {0}).add(segment.size)
            firsts.setdefault(segment.log, set()).add(segment.first)
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


def test_what_is_no_leaf_is_remembered_and_nothing_is_sealed_for_it():
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
    segment = Segment.parse(Checkpoint.parse(open_note(third.note, SIGNER.verifier)).extensions[0])
    assert (segment.first, segment.size, segment.duplicates, segment.conflicting) == (1, 2, 1, 1)


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
