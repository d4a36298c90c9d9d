"""The ledger with real workers, on both brokers: nothing is left out or sealed twice, and no log forks."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from stack import Stack

from sfumato.agents.broker import free_port
from sfumato.agents.exits import EXIT_CONFIGURATION
from sfumato.agents.ledger import keys
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT, DISCLOSURES, EPOCHS
from tests.ledgering import Published, assert_consistent, assert_sealed_as_read, audit, leaves, published, record
from tests.test_end_to_end import send

TIMEOUT = 90.0


class Ledgers:
    """A stack with ledgers that seal often."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ports: dict[str, int] = {}

    def start(self, name: str = "ledger", **overrides: object) -> None:
        self.ports[name] = free_port()
        given = {"ledger_segment_events": 70, "ledger_segment_seconds": 1.0, **overrides}
        self.stack.start("ledger", name=name, metrics_port=self.ports[name], **given)

    def kill(self, name: str = "ledger") -> None:
        """kill -9 of the supervisor and its worker."""
        supervisor = psutil.Process(self.stack.pid(name))
        for process in [supervisor, *supervisor.children(recursive=True)]:
            process.kill()
        self.stack.wait_until_ended(name, 10)
        self.stack.stop(name)

    def until(self, condition: Callable[[], bool], name: str = "ledger") -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            self.stack.check()
            assert time.monotonic() < deadline, self.stack.tail(name)
            time.sleep(0.1)

    def metric(self, metric: str, name: str = "ledger") -> float:
        return self.stack.metric(metric, self.ports[name])

    def frames(self) -> dict[str, float]:
        """The live account over all cameras, without what is zero."""
        found: dict[str, float] = {}
        for labels, value in self.stack.labelled("sfumato_ledger_frames", self.ports["ledger"]):
            found[labels["state"]] = found.get(labels["state"], 0) + value
        return {state: count for state, count in found.items() if count}

    def published(self) -> dict[str, list[Published]]:
        return published(self.stack.settings, keys.load(self.stack.settings).signer.verifier)

    def sealed(self) -> dict[str, int]:
        return {log: max(each.segment.size for each in found) for log, found in self.published().items()}

    def until_sealed(self, expected: dict[str, int], name: str = "ledger") -> None:
        self.until(lambda: expected.items() <= self.sealed().items(), name)


@pytest.fixture
def ledgers(stack: Stack) -> Ledgers:
    return Ledgers(stack)


def test_kill_9_leaves_nothing_out_and_seals_nothing_twice(ledgers):
    cameras = ("north", "south", "east")
    send(ledgers.stack, [(AUDIT, audit(i, camera=camera)) for i in range(400) for camera in cameras])
    ledgers.start()
    ledgers.until(lambda: ledgers.metric("sfumato_ledger_segments_total") > 0)
    send(ledgers.stack, [(AUDIT, audit(i, camera=camera)) for i in range(400, 2000) for camera in cameras])
    ledgers.kill()
    doubled = [(AUDIT, audit(i, Outcome.DROPPED, Reason.NO_KEYFRAME, took=1.0)) for i in range(1990, 2000)]
    send(ledgers.stack, doubled)
    late = [(AUDIT, audit(i, camera=camera)) for i in range(2000, 2100) for camera in cameras]
    ledgers.start(ledger_segment_seconds=600.0, ledger_segment_events=1999)  # too many for the last ones to be sealed
    send(ledgers.stack, [*late, (EPOCHS, record(2099, queue_full=7).to_message())])
    for id in ("one", "two", "one"):
        message = Message(b"request", b'{"id": "%s"}' % id.encode(), [("ce_id", id.encode())])
        send(ledgers.stack, [(DISCLOSURES, message)])
    ledgers.until(lambda: ledgers.frames() == {"ingested": 6307, "masked": 6300, "dropped": 7})
    assert ledgers.sealed()["north"] < 2100
    assert ledgers.stack.stop("ledger") == 0  # SIGTERM seals what is open
    assert ledgers.sealed() == {**dict.fromkeys(cameras, 2100), "_disclosures": 2}
    found, values = ledgers.published(), leaves(ledgers.stack.settings)
    for camera in cameras:
        assert_sealed_as_read(found[camera], values[camera])
        assert_consistent(found[camera], values[camera])
        sealed = [each.segment for each in found[camera]]
        assert len({segment.size for segment in sealed}) == len(sealed)  # none is cut in two ways
        assert sum(sum(segment.outcomes.values()) for segment in sealed) == 2100
        assert sum(segment.conflicting for segment in sealed) == (10 if camera == "north" else 0)
        assert sum(segment.ingest_dropped.get(Reason.QUEUE_FULL, 0) for segment in sealed) == 7 * (camera == "north")
    assert "worker ended" not in ledgers.stack.log("ledger").read_text()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_configured_key_that_is_missing_is_a_refusal_to_start(ledgers, tmp_path):
    ledgers.start(ledger_key_file=tmp_path / "none.pem")
    ledgers.stack.wait_until_ended("ledger", 60)
    assert ledgers.stack.stop("ledger") == EXIT_CONFIGURATION
    assert "put the key back" in ledgers.stack.log("ledger").read_text()


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_two_ledgers_at_once_cut_a_log_in_other_places_and_never_fork_it(ledgers):
    """As a worker does that was stopped for long and does not know yet that its partitions are another's; one of them
    is killed and goes on from whichever heads were written last."""
    ledgers.start("first", ledger_segment_events=50)
    ledgers.start("second", ledger_segment_events=70, group_id="second")
    for name in ("first", "second"):
        ledgers.until(lambda name=name: ledgers.metric("sfumato_ledger_assigned_partitions", name) == 3, name)
    for begin in range(0, 1500, 100):
        send(
            ledgers.stack, [(AUDIT, audit(i, camera=c)) for i in range(begin, begin + 100) for c in ("north", "south")]
        )
        if begin == 700:
            ledgers.until(lambda: ledgers.metric("sfumato_ledger_segments_total", "first") > 0, "first")
            ledgers.until(lambda: ledgers.metric("sfumato_ledger_segments_total", "second") > 0, "second")
            ledgers.kill("second")
            ledgers.start("second", ledger_segment_events=30, group_id="third")
    for name in ("first", "second"):
        ledgers.until_sealed({"north": 1500, "south": 1500}, name)
        for behind in ("sfumato_ledger_lag_events", "sfumato_ledger_behind_events", "sfumato_ledger_behind_seconds"):
            ledgers.until(lambda name=name, behind=behind: ledgers.metric(behind, name) == 0, name)
        assert ledgers.metric("sfumato_ledger_stopped", name) == 0
    found, values = ledgers.published(), leaves(ledgers.stack.settings)
    for camera in ("north", "south"):
        assert_sealed_as_read(found[camera], values[camera])
        assert_consistent(found[camera], values[camera])
