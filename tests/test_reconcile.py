"""The account: what is missing, doubled or dropped is counted as such."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.reconcile import Account
from sfumato.agents.sequences import Sequences
from sfumato.schemas.audit import AuditEvent, Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.outcome import Outcome, Reason

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def audit(sequence, outcome=Outcome.MASKED, reason=None, camera="north"):
    return AuditEvent(
        id=f"{camera}/1/{sequence}",
        origin=Origin(topic="frames.raw", partition=0, offset=sequence),
        camera=camera,
        epoch=1,
        sequence=sequence,
        outcome=outcome,
        reason=reason,
        audited_at=NOW,
        detections=(Detection(target=Target.FACE, score=0.5, box=(0, 0, 1, 1)),),
        input_bytes=1,
        input_sha256="a" * 64,
        output_sha256=None if outcome is Outcome.DROPPED else "b" * 64,
    )


def ended(last, camera="north", **dropped):
    counts = {Reason(name): n for name, n in dropped.items()}
    return EpochRecord(camera=camera, epoch=1, state=EpochState.ENDED, at=NOW, last_sequence=last, dropped=counts)


def publish(account, sequence, delay_ms=10, camera="north"):
    account.add_published(FrameId(camera, 1, sequence), NOW, NOW + timedelta(milliseconds=delay_ms))


@given(st.lists(st.integers(0, 40)), st.integers(-1, 50))
def test_sequences_are_a_set(added, last):
    sequences, plain = Sequences(), set()
    for sequence in added:
        assert sequences.add(sequence) == (sequence not in plain)
        plain.add(sequence)
    assert len(sequences) == len(plain)
    assert sequences.last == max(plain, default=-1)
    assert sequences.missing(last) == len(set(range(last + 1)) - plain)


def test_a_complete_run_balances_in_any_order_and_with_duplicates():
    account = Account()
    events = [
        audit(0),
        audit(1),
        audit(2, Outcome.FULLY_MASKED, Reason.NO_POLICY),
        audit(3, Outcome.DROPPED, Reason.EMPTY),
    ]
    shuffled = [*events, *events[:2]]
    random.Random(1).shuffle(shuffled)
    for event in shuffled:
        account.add_audit(event)
    for sequence in (2, 0, 1, 1):
        publish(account, sequence)
    account.add_epoch(ended(3, queue_full=2))
    report = account.report()
    assert account.balanced
    assert {k: report[k] for k in ("frames_in", "masked", "fully_masked", "dropped", "unaccounted", "duplicates")} == {
        "frames_in": 6,
        "masked": 2,
        "fully_masked": 1,
        "dropped": {"empty": 1, "queue_full": 2},
        "unaccounted": 0,
        "duplicates": 2,
    }
    assert report["objects"] == {"face": 4}


def test_a_hole_and_a_lost_tail_are_unaccounted():
    account = Account()
    for sequence in (0, 1, 3):
        account.add_audit(audit(sequence))
        publish(account, sequence)
    assert account.unaccounted == 1
    account.add_epoch(ended(5))
    assert account.unaccounted == 3
    assert account.report()["frames_in"] == 6
    assert not account.balanced


def test_a_masked_frame_that_was_not_published_does_not_balance():
    account = Account()
    account.add_audit(audit(0))
    account.add_epoch(ended(0))
    assert (account.unaccounted, account.unpublished, account.balanced) == (0, 1, False)


def test_a_published_frame_without_audit_is_unaccounted():
    account = Account()
    publish(account, 0)
    assert account.unaccounted == 1


def test_delays_are_quantiles_of_what_was_published():
    account = Account()
    for sequence in range(100):
        publish(account, sequence, delay_ms=sequence + 1)
    assert (account.delay_ms(0.5), account.delay_ms(0.99)) == (50, 99)
    assert account.fps == 99 / 0.099
    assert Account().delay_ms(0.5) is None
