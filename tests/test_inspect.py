"""The inspecting agent without a broker: what it looks at, what it counts, and when it acknowledges."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from sfumato.agents.exits import EXIT_RESTART
from sfumato.agents.finds import Ledger
from sfumato.agents.inspect import SecondLook, Skipped, Worker
from sfumato.agents.sampling import Budget
from sfumato.agents.settings import Settings
from sfumato.agents.suspensions import SuspensionStore, suspend
from sfumato.models import images
from sfumato.models.inspector import Inspector
from sfumato.models.task import NoPolicy
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import DetectorName, Target
from sfumato.schemas.find import Find
from sfumato.schemas.frame import AnonymizedFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.suspension import Suspension, SuspensionState
from sfumato.schemas.topics import FINDS, SUSPENSIONS
from tests.filming import Encoder
from tests.streaming import Broker, Stream, until
from tests.test_anonymize import POLICY, Scripted, face, noise

POLICY = Policy.model_validate({**POLICY.model_dump(), "zones": [], "inspect": {"per_minute": 600, "leak_budget": 2}})
NOW = datetime.now(UTC)
PICTURE = images.encode(noise(), 90)


def frame(sequence=0, camera="north", **changes):
    given = {
        "id": FrameId(camera, 1, sequence),
        "captured_at": NOW,
        "time_source": TimeSource.ARRIVAL,
        "width": 128,
        "height": 96,
        "content_type": "image/jpeg",
        "payload": PICTURE,
        "outcome": Outcome.MASKED,
        "reason": None,
        "policy_version": 3,
        "detections": (),
    }
    return AnonymizedFrame(**{**given, **changes})


@pytest.fixture
def suspensions():
    return SuspensionStore(Settings())


@pytest.fixture
def inspection(suspensions):
    return made(suspensions)


def made(suspensions, behaviour=None, policy=POLICY, ledger=None, budget=1.0):
    policies = SimpleNamespace(get=lambda camera: policy)
    inspector = Inspector([Scripted(behaviour)], ["centerface"])
    return SecondLook(inspector, policies, suspensions, ledger or Ledger(), Budget(budget), 10**7)


def choose(inspection, frame, seconds=0.0):
    key, value, headers = frame.to_message()
    return inspection.choose(key, value, headers, NOW + timedelta(seconds=seconds))


def found(sequence=0, index=0, ago=0.0, camera="north"):
    return Find(
        camera=camera,
        epoch=1,
        sequence=sequence,
        index=index,
        target=Target.FACE,
        score=0.9,
        box=(0, 0, 9, 9),
        covered=0.0,
        width=128,
        height=96,
        detector=DetectorRecord(name=DetectorName.CENTERFACE, weights_sha256="c" * 64),
        policy_version=3,
        published_at=datetime.now(UTC) - timedelta(seconds=ago),
        found_at=datetime.now(UTC),
    )


def lifted(camera="north", ago=0.0):
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return Suspension(camera=camera, state=SuspensionState.LIFTED, at=at, by="A. Person", note="looked at it")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY}, "fully_masked"),
        ({"policy_version": 2}, "other_policy"),
        ({"policy_version": None}, "other_policy"),
    ],
)
def test_frames_that_cannot_be_judged_are_counted(inspection, changes, reason):
    with pytest.raises(Skipped, match=reason):
        choose(inspection, frame(**changes))


def test_a_camera_without_policy_or_a_detector_is_not_looked_at(suspensions):
    with pytest.raises(Skipped, match="no_policy"):
        choose(made(suspensions, policy=NoPolicy(Reason.NO_POLICY)), frame())
    plates = Policy.model_validate({**POLICY.model_dump(), "targets": {"licence_plate": {}}})
    with pytest.raises(Skipped, match="no_detector"):
        choose(made(suspensions, policy=plates), frame())


def test_a_sample_is_looked_at_within_the_budget(suspensions):
    inspection = made(suspensions, budget=1e-6)
    first = choose(inspection, frame(0))
    with pytest.raises(Skipped, match="not_sampled"):
        choose(inspection, frame(1), seconds=0.001)
    assert choose(inspection, frame(2), seconds=1)
    inspection.look(first)  # takes longer than a millionth of the time
    with pytest.raises(Skipped, match="over_budget"):
        choose(inspection, frame(3), seconds=2)


@pytest.mark.parametrize("headers", [[], [("ce_id", b"\xff")], [("ce_unreadable", None)]])
def test_garbage_is_skipped(inspection, headers):
    with pytest.raises(Skipped, match="invalid_envelope"):
        inspection.choose(b"north", b"x", headers, NOW)


def test_what_cannot_be_decoded_is_skipped(inspection):
    for payload in (b"\xff\xd8\xff" + bytes(100), PICTURE[:-200], b"x"):
        with pytest.raises(Skipped, match="undecodable"):
            inspection.look(choose(inspection, frame(payload=payload), seconds=len(payload)))


def test_a_detector_that_fails_stops_nothing(suspensions):
    def fail(pictures):
        raise ValueError("RAW")

    inspection = made(suspensions, behaviour=fail)
    with pytest.raises(Skipped, match="detector_error"):
        inspection.look(choose(inspection, frame()))


def test_a_find_says_what_where_and_by_whom(inspection):
    """The scripted detector sees a face in the upper left quarter."""
    (find,) = inspection.look(choose(inspection, frame(7, detections=(face(100, 50, 110, 60),))))
    assert (find.camera, find.epoch, find.sequence, find.index) == ("north", 1, 7, 0)
    assert (find.target, find.score, find.box, find.covered) == (Target.FACE, 0.9, (0, 0, 64, 48), 0.0)
    assert (find.width, find.height, find.policy_version, find.smallest) == (128, 96, 3, 12)
    assert find.detector.weights_sha256 == "c" * 64
    assert inspection.look(choose(inspection, frame(8, detections=(face(0, 0, 64, 48),)), seconds=1)) == []


def test_of_h264_the_keyframes_are_looked_at(suspensions):
    looked = []
    inspection = made(suspensions, behaviour=lambda pictures: looked.append(pictures[0].mean()) or [()])
    chosen = []
    for number, unit in enumerate(Encoder("north", interval=5).film(*range(12), policy_version=3)):
        if unit.unit.keyframe:
            chosen.append(choose(inspection, unit, seconds=number))
        else:
            with pytest.raises(Skipped, match="no_keyframe"):
                choose(inspection, unit, seconds=number)
    assert [each.frame.id.sequence for each in chosen] == [0, 5, 10]
    for each in chosen:
        assert inspection.look(each) == []
    assert np.allclose(looked, [30, 80, 130], atol=4)


def test_more_finds_than_the_budget_suspend_the_camera(inspection):
    assert inspection.record([found(0), found(1)]) == []
    (suspension,) = inspection.record([found(2)])
    assert (suspension.camera, suspension.finds, suspension.suspended) == ("north", 3, True)
    assert "leak budget is 2" in suspension.note
    inspection.adopt(suspension)
    assert inspection.record([found(3)]) == []  # it is suspended already


def test_a_replayed_find_is_not_counted_twice(inspection):
    assert [inspection.record([found(0, index)]) for index in (0, 0, 0, 0, 1)] == [[]] * 5
    assert inspection.record([found(0, 2)])


def test_finds_older_than_an_hour_and_those_before_a_lift_do_not_count(inspection, suspensions):
    assert inspection.record([found(n, ago=3601) for n in range(5)]) == []
    assert inspection.record([found(n, ago=600) for n in range(10, 12)]) == []
    suspensions.adopt(lifted(ago=300))
    assert inspection.record([found(n, ago=200) for n in range(20, 22)]) == []
    assert inspection.record([found(22)])


def test_cameras_do_not_share_a_budget(inspection):
    assert inspection.record([found(0), found(1), found(0, camera="south"), found(1, camera="south")]) == []


def test_a_suspended_camera_has_no_policy(suspensions):
    in_force = suspensions.over(lambda camera: POLICY)
    assert in_force("north") is POLICY
    suspensions.take(*suspend("north", "three finds").to_message()[:2])
    assert in_force("north") == NoPolicy(Reason.SUSPENDED, "three finds")
    assert in_force("south") is POLICY
    suspensions.take(*lifted().to_message()[:2])
    assert in_force("north") is POLICY
    assert [record.state for record in suspensions.history] == ["suspended", "lifted"]


@pytest.mark.parametrize("value", [b"", None, b"{}", b"\xff", suspend("south", "x").model_dump_json().encode()])
def test_a_record_that_cannot_be_read_suspends_the_camera_that_it_names(suspensions, value):
    suspensions.take(b"north/1", value)
    suspensions.take(b"\xff/1", value)
    suspensions.take(None, value)
    assert suspensions.suspended("north")
    assert not suspensions.suspended("south")
    assert len(suspensions.states()) == 1


def event(offset):
    key, value, headers = frame(offset).to_message()
    return message_event(offset, key, value, headers)


def message_event(offset, key, value, headers, timestamp=None):
    at = NOW.timestamp() - 100 + offset if timestamp is None else timestamp
    message = SimpleNamespace(key=key, value=value, headers=headers, offset=offset, timestamp=at)
    return SimpleNamespace(message=message, value=value)


def test_nothing_is_acknowledged_before_its_finds_and_its_suspension_are(inspection, left):
    async def scenario() -> None:
        stream, broker = Stream(2, 1, of=event), Broker()
        running = asyncio.create_task(Worker(Settings(), inspection, broker).run(stream, []))
        await until(lambda: len(broker.sent) == 1)
        assert stream.acknowledged == []
        broker.acknowledge(1)
        await until(lambda: len(broker.sent) == 2)
        broker.acknowledge(1)
        await until(lambda: stream.acknowledged == [0, 1])
        await until(lambda: len(broker.sent) == 3)
        broker.acknowledge(1)
        await until(lambda: len(broker.sent) == 4)
        assert [topic for topic, _ in broker.sent] == [FINDS, FINDS, FINDS, SUSPENSIONS]
        assert stream.acknowledged == [0, 1]
        broker.acknowledge(1)
        await until(lambda: stream.acknowledged == [0, 1, 2])
        running.cancel()

    asyncio.run(scenario())
    assert left == []


def test_a_suspension_that_a_kill_cut_off_is_made_up_for(suspensions, left):
    ledger = Ledger()
    for number in range(3):
        ledger.add(found(number))

    async def scenario() -> None:
        stream, broker = Stream(of=event), Broker()
        worker = Worker(Settings(), made(suspensions, ledger=ledger), broker)
        running = asyncio.create_task(worker.run(stream, ledger.cameras()))
        await until(lambda: [topic for topic, _ in broker.sent] == [SUSPENSIONS])
        broker.acknowledge(1)
        running.cancel()

    asyncio.run(scenario())


def test_events_of_partitions_taken_away_are_not_acknowledged(inspection, left):
    """Another worker reads them again; a late acknowledgement could skip what it has not read yet."""

    async def scenario() -> None:
        stream, broker = Stream(1, 1, of=event), Broker()
        worker = Worker(Settings(), inspection, broker)
        running = asyncio.create_task(worker.run(stream, []))
        await until(lambda: len(broker.sent) == 1)
        worker.revoked += 1
        broker.acknowledge(1)
        await until(lambda: len(broker.sent) == 2)
        broker.acknowledge(1)
        await until(lambda: stream.acknowledged == [1])
        running.cancel()

    asyncio.run(scenario())
    assert left == []


@pytest.mark.parametrize("timestamp", [-0.001, None, 1e300, float(2**62)])
def test_no_time_of_a_message_stops_the_agent(inspection, timestamp):
    worker = Worker(Settings(), inspection, Broker())
    at = worker._choose(message_event(0, *frame().to_message(), timestamp).message).at
    assert at <= datetime.now(UTC)


def test_a_look_that_hangs_is_skipped_and_the_process_restarted(suspensions, left):
    released = threading.Event()

    def hang(pictures):
        released.wait(60)
        return [()]

    async def scenario() -> None:
        stream = Stream(3, of=event)
        worker = Worker(Settings(detector_timeout=0.2), made(suspensions, behaviour=hang), Broker())
        running = asyncio.create_task(worker.run(stream, []))
        await until(lambda: left != [])
        assert stream.acknowledged == [0]  # what came after it is read again
        assert stream.committed
        released.set()
        running.cancel()

    try:
        asyncio.run(scenario())
    finally:
        released.set()
    assert left[0][1] == EXIT_RESTART
