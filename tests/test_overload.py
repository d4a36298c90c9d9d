"""A worker with too much to do: what is kept, what is skipped, and that every frame is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sfumato.agents.anonymize import Record
from sfumato.agents.reconcile import Account
from sfumato.models import images
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from tests.encoding import STARTED, tasks_of
from tests.test_anonymize import POLICY, Direct, Scripted, noise

START = datetime(2026, 6, 1, tzinfo=UTC)
INTERVAL = timedelta(seconds=0.25)
MAX_AGE = timedelta(seconds=2)


def policy(rule: str) -> Policy:
    overload = {"rule": rule, "max_age": MAX_AGE.total_seconds()}
    return Policy.model_validate({**json.loads(POLICY.model_dump_json()), "overload": overload})


class Worker:
    """One camera's frames, four to a batch, before a detector that takes a second for a batch."""

    DETECTION = timedelta(seconds=1)

    def __init__(self, rule: str, behind: timedelta) -> None:
        self.now = START + behind
        self.looked_at: list[int] = []
        engine = Engine(Ensemble([Scripted(self._detect)]), Limits(), now=lambda: self.now)
        self._anonymizer = Direct(engine, lambda frame: policy(rule))
        self.account = Account()
        self.staleness: list[timedelta] = []

    def _detect(self, pictures):  # type: ignore[no-untyped-def]
        self.looked_at.append(len(pictures))
        self.now += self.DETECTION
        return [() for _ in pictures]

    def run(self, frames: int) -> list[tuple[Outcome, Reason | None]]:
        outcomes = []
        for first in range(0, frames, 4):
            captured = [START + number * INTERVAL for number in range(first, first + 4)]
            self.now = max(self.now, captured[-1])  # a frame is not read before it is there
            batch = [still(first + i, at) for i, at in enumerate(captured)]
            for ending, at in zip(self._anonymizer.end(batch), captured, strict=True):
                outcomes.append((ending.audit.outcome, ending.audit.reason))
                self.account.add_audit(ending.audit)
                if ending.output is not None:
                    self.account.add_published(ending.output.id, at, self.now)
                    self.staleness.append(self.now - at)
        return outcomes


def still(sequence: int, captured_at: datetime) -> Record:
    payload = images.encode(noise(size=(32, 48)), 90)
    frame = RawFrame(FrameId("north", 1, sequence), captured_at, TimeSource.ARRIVAL, 48, 32, "image/jpeg", payload)
    key, value, headers = frame.to_message()
    return Record(key, value, headers, Origin(topic="frames.raw", partition=0, offset=sequence))


def test_skip_drops_what_is_late_catches_up_and_shows_nothing_stale():
    worker = Worker("skip", behind=timedelta(seconds=10))
    outcomes = worker.run(80)
    late = (Outcome.DROPPED, Reason.LATE)
    assert outcomes[:32] == [late] * 32  # captured more than 2 s before the worker began
    assert (Outcome.MASKED, None) in outcomes[32:]
    assert worker.staleness
    assert max(worker.staleness) <= MAX_AGE + worker.DETECTION
    report = worker.account.report()
    assert report["dropped"] == {"late": outcomes.count(late)}
    assert report["frames_in"] == 80 == report["masked"] + report["dropped"]["late"]
    assert worker.account.balanced
    assert sum(worker.looked_at) == report["masked"]  # a late frame costs no detection


def test_keep_masks_and_publishes_all_however_late():
    worker = Worker("keep", behind=timedelta(days=30))
    assert worker.run(16) == [(Outcome.MASKED, None)] * 16
    assert min(worker.staleness) > timedelta(days=29)
    assert worker.account.balanced


def test_keep_is_the_default():
    assert POLICY.overload.rule == "keep"


@pytest.mark.parametrize("name", ["h264", "h264-b-frames", "h265"])
def test_units_that_come_late_are_decoded_so_that_later_ones_come_out_right(name):
    """Those of the first half second are late; the first after them lies in the middle of a group of pictures."""

    def anonymized(now: datetime):  # type: ignore[no-untyped-def]
        engine = Engine(Ensemble([Scripted(lambda pictures: [() for _ in pictures])]), Limits(), now=lambda: now)
        tasks = [replace(task, policy=policy("skip")) for task in tasks_of(name, POLICY)]
        return [*engine.anonymize(tasks), *engine.close_idle(-1)]

    everything = {task.frame.id: task.output for task in anonymized(STARTED)}
    found = anonymized(STARTED + MAX_AGE + timedelta(seconds=0.5))
    assert len(found) == len(everything) == 40
    late = [task for task in found if task.outcome is Outcome.DROPPED]
    assert {task.reason for task in late} == {Reason.LATE}
    assert len(late) == 13  # 0 to 12 twenty-fifths of a second
    for task in found:
        assert (task in late) == (task.frame.captured_at < STARTED + timedelta(seconds=0.5))
        if task not in late:
            assert task.output is not None
            assert task.output == everything[task.frame.id]
            assert np.ptp(images.decode(task.output, "image/jpeg", max_pixels=10**6)) > 50
