"""The ledger without a broker: what becomes a leaf, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from sfumato.agents.ledger import account
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.entries import read_audit, read_disclosure
from sfumato.agents.ledger.gauges import balance
from sfumato.agents.ledger.seal import known_policies
from sfumato.agents.policies import Register
from sfumato.agents.sequences import Sequences, subtract
from sfumato.schemas.floor import Floor
from sfumato.schemas.head import Head, Report
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import digest
from sfumato.schemas.segment import Conflict, Run, Segment
from tests.ledgering import GRACE, NOW, PLACE, RAW, entry, event
from tests.test_policy import named

SCHEMA = Path(__file__).parent.parent / "docs" / "segment.schema.json"


def filled(*sequences: int) -> Log:
    log = Log("north", PLACE)
    for offset, sequence in enumerate(sequences):
        log.take(entry(sequence), offset, 0.0)
    return log


def seal(log: Log) -> Segment:
    return log.seal("audit", NOW, lambda name, version: "d" * 64 if (name, version) == ("north", 1) else None)


def test_an_event_belongs_to_its_cameras_log():
    read = entry(7, Outcome.FULLY_MASKED, Reason.NO_POLICY)
    assert (read.log, read.identity, read.outcome, read.reason) == ("north", (1, 7), "fully_masked", "no_policy")
    assert (read.policy, read.detectors) == (("north", 1), (("centerface", "c" * 64),))


@pytest.mark.parametrize("behind", [False, True])
def test_a_segment_names_the_policy_that_was_applied(behind: bool):
    """Also where the ledger has not read it yet, and where another text was set under its version."""
    register = Register(Floor(), keep_history=True)
    was_set, applied = (named("north", 1, purpose=purpose).to_message().value for purpose in ("set", "applied"))
    if not behind:
        register.take(b"north@1", was_set, NOW)
        register.take(b"north@2", applied, NOW)
    known = known_policies(SimpleNamespace(look=lambda question: question(register)))
    log = Log("north", PLACE)
    stated = [{"policy_sha256": digest(applied)}, {"policy_sha256": None, "policy_version": 2}]
    for offset, changes in enumerate(stated):
        value = event(offset).model_copy(update=changes).to_message().value
        log.take(read_audit(b"north", value, 0), offset, 0.0)
    expected = {"north@1": digest(applied)} | ({} if behind else {"north@2": digest(applied)})
    assert log.seal("audit", NOW, known).policies == expected


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


@given(*[st.sets(st.integers(0, 60))] * 2)
@settings(deadline=None)
def test_runs_are_taken_from_runs(numbers, taken):
    runs, other = Sequences(), Sequences()
    for sequences, members in ((runs, numbers), (other, taken)):
        for number in members:
            sequences.add(number)
    assert [n for first, last in subtract(runs.runs, other.runs) for n in range(first, last + 1)] == sorted(
        numbers - taken
    )
    runs.remove(other)
    assert Sequences(runs.runs).runs == runs.runs
    assert len(runs) == len(numbers - taken)


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
    assert log.notice(10**6, GRACE, RAW) == 0
    segment = seal(log)
    assert (segment.reordered, segment.missing, segment.runs) == (1, (), (Run(epoch=1, first=0, last=3),))


def test_a_gap_is_missing_once_it_is_old_and_once_only():
    log = filled(0, 1, 5, 6)
    assert log.notice(100.0, GRACE, RAW) == log.notice(100.0 + GRACE - 1, GRACE, RAW) == 0
    assert log.notice(100.0 + GRACE, GRACE, RAW) == 3
    assert log.notice(10**6, GRACE, RAW) == 0
    assert seal(log).missing == (Run(epoch=1, first=2, last=4),)
    assert log.take(entry(3), 9, 0.0)
    segment = seal(log)
    assert (segment.found_late, segment.missing, segment.reordered) == (1, (), 1)
    assert log.notice(10**6, GRACE, RAW) == 0


def test_the_end_of_an_epoch_is_missing_once_raw_frames_are_gone():
    log = filled(0, 1)
    log.take_report(Report(epoch=1, last_sent=4), 0.0)
    assert log.notice(0.0, GRACE, RAW) == log.notice(10**6, GRACE, RAW) == 0  # on their way, for all that is known
    log.take_report(Report(epoch=1, last_sent=4, ended=True), 0.0)
    assert log.notice(0.0, GRACE, RAW) == log.notice(GRACE, GRACE, RAW) == 0
    assert log.notice(GRACE + RAW, GRACE, RAW) == 3
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


def missing(*segments: Segment) -> list[int]:
    """All sequences that these call missing, each as often as it is."""
    return sorted(n for segment in segments for run in segment.missing for n in range(run.first, run.last + 1))


@pytest.mark.parametrize("late", [True, False])
def test_an_epoch_that_is_full_of_holes_keeps_little_and_hides_none(late, monkeypatch):
    """Every second frame is missing: each is told, and once, whether its grace passes before it is too much or not."""
    monkeypatch.setattr(account, "MOST_RUNS", 10)
    log, segments, counted = Log("north", PLACE), [], 0
    for number in range(300):
        log.take(entry(2 * number), number, 0.0)
        if late and number % 7 == 0:
            log.notice(number, 0.0, RAW)
            counted += log.notice(number + 1.0, 0.0, RAW)
        assert log.epochs[1].audited.pieces <= 10
        assert log.epochs[1].missing.pieces <= 10
        if number % 50 == 49:
            segments.append(seal(log))
            log = Log.from_head(Head.from_message(log.head("x", NOW).to_message().value))
    counted += log.notice(10**6, 0.0, RAW) + log.notice(10**7, 0.0, RAW)
    log.take(entry(599), 300, 0.0)
    segments.append(seal(log))
    assert missing(*segments) == list(range(1, 598, 2))
    assert counted > 0


def test_what_was_missing_and_came_after_all_is_not_kept():
    log = filled(*range(0, 100, 2))
    log.notice(0.0, GRACE, RAW)
    assert log.notice(GRACE, GRACE, RAW) == 49
    for offset, sequence in enumerate(range(1, 99, 2), 50):
        log.take(entry(sequence), offset, GRACE)
    assert log.notice(GRACE, GRACE, RAW) == 0
    assert log.epochs[1].missing.pieces == 0
    assert seal(log).found_late == 49


def test_an_epoch_that_is_forgotten_has_its_holes_told(monkeypatch):
    monkeypatch.setattr(account, "MOST_EPOCHS", 1)
    log = filled(0, 1, 5)
    log.take_report(Report(epoch=1, last_sent=7, ended=True), 0.0)
    log.take(entry(0, epoch=2), 6, 0.0)
    assert log.notice(0.0, GRACE, RAW) == 5
    assert missing(seal(log)) == [2, 3, 4, 6, 7]


def test_what_a_segment_has_no_room_for_is_told_by_the_next(monkeypatch):
    monkeypatch.setattr(account, "MOST_MISSING", 20)
    log, segments = filled(*range(0, 100, 2)), []
    for number in range(3):
        log.notice(0.0, GRACE, RAW)
        log.notice(GRACE, GRACE, RAW)
        log.take(entry(99 + number), 100 + number, 0.0)
        segments.append(seal(log))
    assert [len(segment.missing) for segment in segments] == [20, 20, 9]
    assert missing(*segments) == list(range(1, 98, 2))
