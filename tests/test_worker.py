"""The worker between Faust's stream and the producer: nothing is acknowledged before its output is."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from sfumato.agents.anonymize import Record, Worker
from sfumato.agents.exits import EXIT_RESTART
from sfumato.agents.settings import Settings
from sfumato.models import ensemble, images
from sfumato.schemas.audit import Origin
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED
from tests.encoding import keyframes, tasks_of
from tests.streaming import Broker, Stream, until
from tests.test_anonymize import POLICY, anonymizer, noise, record


def video_event(offset: int):  # type: ignore[no-untyped-def]
    """A unit of H.264 with B-frames, ten to a group."""
    key, value, headers = tasks_of("h264-b-frames", POLICY)[offset].frame.to_message()
    return event(offset, Record(key, value, headers, Origin(topic="frames.raw", partition=0, offset=offset)))


def event(offset: int, taken: Record | None = None):  # type: ignore[no-untyped-def]
    taken = taken or record(images.encode(noise(), 95), sequence=offset)
    message = SimpleNamespace(
        key=taken.key, value=taken.value, headers=taken.headers, topic="frames.raw", partition=0, offset=offset
    )
    return SimpleNamespace(message=message, value=taken.value)


def test_events_are_acknowledged_in_order_and_only_after_their_outputs(left):
    async def scenario() -> None:
        stream, broker = Stream(2, 3, of=event), Broker()
        broker.full_for = 2  # the producer's queue is full at first
        immediate = anonymizer(policy=POLICY.model_copy(update={"lookahead": 0.0}))
        running = asyncio.create_task(Worker(Settings(), immediate, broker).run(stream))
        await until(lambda: len(broker.sent) == 4)
        assert [topic for topic, _ in broker.sent] == [FRAMES_ANONYMIZED, AUDIT] * 2
        broker.acknowledge(3)  # all but the last audit event
        await asyncio.sleep(0.05)
        assert stream.acknowledged == []
        broker.acknowledge(1)
        await until(lambda: len(broker.sent) == 10)
        assert stream.acknowledged == [0, 1]
        broker.acknowledge(6)
        await until(lambda: stream.acknowledged == [0, 1, 2, 3, 4])
        running.cancel()

    asyncio.run(scenario())
    assert left == []


def test_a_group_of_pictures_is_acknowledged_when_the_next_one_has_begun(left):
    """And what the decoder holds when the camera falls silent comes out after a time, and is acknowledged."""

    async def scenario() -> None:
        stream, broker = Stream(8, 8, 8, of=video_event), Broker()
        worker = Worker(Settings(camera_idle=1.5), anonymizer(), broker)
        running = asyncio.create_task(worker.run(stream))
        await until(lambda: bool(broker.waiting))
        delivered = 0
        while delivered < 24:
            await until(lambda: bool(broker.waiting))
            sent = [topic for topic, _ in broker.sent]
            broker.acknowledge(len(broker.waiting))
            delivered = sent.count(AUDIT)
            if 20 < delivered < 24:  # the last pictures are in the decoder
                await until(lambda: len(stream.acknowledged) == keyframes("h264-b-frames")[2])
        await until(lambda: stream.acknowledged == list(range(24)))
        assert worker.acknowledger.held == 0
        running.cancel()

    asyncio.run(scenario())
    assert left == []


def test_a_frame_that_waits_comes_out_on_time_though_no_other_comes(left, monkeypatch):
    """And is not acknowledged before. Nothing but its time wakes the worker."""

    async def never(self) -> None:  # type: ignore[no-untyped-def]
        await asyncio.Event().wait()

    monkeypatch.setattr(Worker, "_close_idle", never)

    async def scenario() -> None:
        stream, broker = Stream(1, of=event), Broker()
        policy = POLICY.model_copy(update={"lookahead": 0.3})
        worker = Worker(Settings(), anonymizer(policy=policy), broker)
        running = asyncio.create_task(worker.run(stream))
        await until(lambda: worker.acknowledger.held == 1)
        assert broker.sent == []
        await until(lambda: len(broker.sent) == 2)
        assert stream.acknowledged == []
        broker.acknowledge(2)
        await until(lambda: stream.acknowledged == [0])
        running.cancel()

    asyncio.run(scenario())
    assert left == []


def test_after_its_end_nothing_comes_out_that_would_overtake_what_is_read_again(left):
    """Ended while a batch is computed: what that comes to is gone, and frames that waited stay where they are."""
    entered, released, calls = threading.Event(), threading.Event(), []

    def block_late(pictures):  # type: ignore[no-untyped-def]
        calls.append(len(pictures))
        if len(calls) > 1:
            entered.set()
            released.wait(60)
        return [() for _ in pictures]

    async def scenario() -> None:
        stream, broker = Stream(2, 2, of=event), Broker()
        waiting = anonymizer(block_late, POLICY.model_copy(update={"lookahead": 0.2}))
        running = asyncio.create_task(Worker(Settings(), waiting, broker).run(stream))
        assert await asyncio.to_thread(entered.wait, 30)
        before = len(broker.sent)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        released.set()
        await until(
            lambda: {"_close_idle", "_release_due"}.isdisjoint(
                getattr(t.get_coro(), "__name__", "") for t in asyncio.all_tasks()
            )
        )
        assert len(broker.sent) == before

    try:
        asyncio.run(scenario())
    finally:
        released.set()
    assert left == []


def test_a_detection_that_hangs_also_ends_the_frames_that_wait(left):
    released, calls = threading.Event(), []

    def hang_late(pictures):  # type: ignore[no-untyped-def]
        calls.append(len(pictures))
        if len(calls) > 1:
            released.wait(60)
        return [() for _ in pictures]

    async def scenario() -> None:
        stream, broker = Stream(2, 1, of=event), Broker()
        waiting = anonymizer(hang_late, POLICY.model_copy(update={"lookahead": 2.0}))
        running = asyncio.create_task(Worker(Settings(detector_timeout=0.5), waiting, broker).run(stream))
        await until(lambda: len(broker.sent) == 6)
        frames = [dict(message.headers) for topic, message in broker.sent if topic is FRAMES_ANONYMIZED]
        assert sorted(frame["ce_sequence"] for frame in frames) == [b"0", b"1", b"2"]
        assert {frame["ce_reason"] for frame in frames} == {Reason.DETECTOR_TIMEOUT.encode()}
        broker.acknowledge(6)
        await until(lambda: left != [])
        assert stream.acknowledged == [0, 1, 2]
        released.set()
        running.cancel()

    try:
        asyncio.run(scenario())
    finally:
        released.set()
    assert left[0] == ("a detection hung", EXIT_RESTART)


def test_a_detector_that_fails_for_every_picture_is_given_a_fresh_process(left, monkeypatch):
    """As where a GPU is lost. What came to its end is delivered first; what waits is read again."""
    monkeypatch.setattr(ensemble, "FAILING_SECONDS", 0.0)
    monkeypatch.setattr(ensemble, "FAILING_CALLS", 6)

    def crash(pictures):  # type: ignore[no-untyped-def]
        raise RuntimeError("CUDA failure 700")

    async def scenario() -> None:
        stream, broker = Stream(2, 2, 2, of=event), Broker()  # three calls each: both pictures, then one by one
        failing = anonymizer(crash, POLICY.model_copy(update={"lookahead": 0.0}))
        running = asyncio.create_task(Worker(Settings(), failing, broker).run(stream))
        await until(lambda: len(broker.sent) == 4)
        broker.acknowledge(4)
        await until(lambda: len(broker.sent) == 8)
        assert (stream.acknowledged, left) == ([0, 1], [])
        broker.acknowledge(4)
        await until(lambda: left != [])
        assert (stream.acknowledged, stream.committed) == ([0, 1, 2, 3], True)
        frames = [dict(message.headers) for topic, message in broker.sent[:8] if topic is FRAMES_ANONYMIZED]
        assert {frame["ce_reason"] for frame in frames} == {Reason.DETECTOR_ERROR.encode()}
        running.cancel()

    asyncio.run(scenario())
    assert left[0] == ("detector centerface has failed for every picture, long enough", EXIT_RESTART)


def test_a_refused_delivery_ends_the_process_and_acknowledges_nothing(left):
    async def scenario() -> None:
        stream, broker = Stream(1, of=event), Broker()
        running = asyncio.create_task(Worker(Settings(), anonymizer(), broker).run(stream))
        await until(lambda: len(broker.sent) == 2)
        broker.acknowledge(1, SimpleNamespace(str=lambda: "not authorized"))
        broker.acknowledge(1)
        await until(lambda: left != [])
        assert stream.acknowledged == []
        running.cancel()

    asyncio.run(scenario())
    assert left[0][1] == EXIT_RESTART
    assert "not authorized" in left[0][0]


def test_a_hang_also_ends_what_the_decoders_hold(left):
    """Nothing is read again after the restart: it would hang again."""
    released = threading.Event()

    def hang_late(pictures):  # type: ignore[no-untyped-def]
        if any(len(batch) for batch in seen):
            released.wait(60)
        seen.append(pictures)
        return [() for _ in pictures]

    seen: list[list[object]] = []

    async def scenario() -> None:
        stream, broker = Stream(8, 8, of=video_event), Broker()
        running = asyncio.create_task(Worker(Settings(detector_timeout=1.0), anonymizer(hang_late), broker).run(stream))
        while left == []:
            await until(lambda: broker.waiting or left)
            broker.acknowledge(len(broker.waiting))
        audited = [message for topic, message in broker.sent if topic is AUDIT]
        assert sorted(int(dict(m.headers)["ce_sequence"]) for m in audited) == list(range(16))
        assert stream.acknowledged == list(range(16))
        assert stream.committed
        released.set()
        running.cancel()

    try:
        asyncio.run(scenario())
    finally:
        released.set()
    assert left[0] == ("a detection hung", EXIT_RESTART)


def test_a_detection_that_hangs_ends_as_full_masks_and_a_restart(left):
    released = threading.Event()

    def hang(pictures):  # type: ignore[no-untyped-def]
        released.wait(60)
        return [() for _ in pictures]

    async def scenario() -> None:
        stream, broker = Stream(12, of=event), Broker()
        running = asyncio.create_task(Worker(Settings(detector_timeout=0.2), anonymizer(hang), broker).run(stream))
        await until(lambda: len(broker.sent) == 24)
        frames = [dict(message.headers) for topic, message in broker.sent if topic is FRAMES_ANONYMIZED]
        assert {frame["ce_outcome"] for frame in frames} == {Outcome.FULLY_MASKED.encode()}
        assert {frame["ce_reason"] for frame in frames} == {Reason.DETECTOR_TIMEOUT.encode()}
        assert [int(frame["ce_sequence"]) for frame in frames] == list(range(12)), "out of order"
        broker.acknowledge(24)
        await until(lambda: left != [])
        assert stream.acknowledged == list(range(12))
        assert stream.committed
        released.set()
        running.cancel()

    try:
        asyncio.run(scenario())
    finally:
        released.set()
    assert left[0] == ("a detection hung", EXIT_RESTART)
