"""The whole path with real Faust workers, on both brokers: nothing lost, nothing leaked, every frame audited."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
from stack import Stack, demonstration_policy

from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Sealer
from sfumato.agents.produce import Producer
from sfumato.agents.reconcile import TopicReader
from sfumato.models import images
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import AnonymizedFrame, Message, RawFrame, TimeSource
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_ANONYMIZED, FRAMES_RAW, Topic
from tests.ingesting import read_topic
from tests.test_anonymize import GARBAGE
from tests.test_transport import batch, produce_raw

EPOCH = 1_700_000_000_000
TIMEOUT = 120.0


def raw(
    camera: str,
    sequence: int,
    payload: bytes | None,
    content_type: str = "image/jpeg",
    captured_at: datetime | None = None,
) -> Message:
    at = captured_at or datetime.now(UTC)
    frame = RawFrame(FrameId(camera, EPOCH, sequence), at, TimeSource.ARRIVAL, 176, 144, content_type, payload or b"")
    key, _, headers = frame.to_message()
    return Message(key, payload, headers)  # type: ignore[arg-type]


def send(stack: Stack, messages: list[tuple[Topic, Message]]) -> None:
    """To Kafka; raw frames sealed as the ingestor does it, and what is no frame as it is."""
    producer = Producer(stack.settings, client_id="test")
    sealer = Sealer(stores.make(stack.settings))
    errors: list[object] = []
    for topic, message in messages:
        if topic is FRAMES_RAW:
            with suppress(EnvelopeError):
                message = sealer.seal(RawFrame.from_message(*message)).to_message()
        producer.send(topic, message, errors.append)
    assert producer.close(30) == 0
    assert set(errors) <= {None}


def ended(camera: str, last: int) -> tuple[Topic, Message]:
    at = datetime.now(UTC)
    record = EpochRecord(camera=camera, epoch=EPOCH, state=EpochState.ENDED, at=at, last_sequence=last)
    return EPOCHS, record.to_message()


def settle(stack: Stack, reader: TopicReader) -> None:
    """Until every frame sent has its outcome; fails at once where a process ends."""
    deadline = time.monotonic() + TIMEOUT
    while not reader.settle(1):
        stack.check()
        assert time.monotonic() < deadline, (reader.account.report(), stack.tail("anonymize"))


def test_frames_come_out_masked_in_order_and_audited(stack, pictures):
    cameras = ("north", "south", "unknown")
    stack.publish(*(demonstration_policy(camera) for camera in cameras[:2]))
    send(stack, [(FRAMES_RAW, raw(c, i, picture)) for i, picture in enumerate(pictures) for c in cameras])
    send(stack, [ended(camera, len(pictures) - 1) for camera in cameras])
    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
        report = reader.account.report()
    assert report["frames_in"] == 3 * len(pictures)
    assert report["masked"] == 2 * len(pictures)
    assert report["fully_masked_reasons"] == {"no_policy": len(pictures)}
    assert report["objects"]["face"] >= 2 * len(pictures)

    audits = {
        event.id: event for event in (AuditEvent.from_message(m.value()) for m in read_topic(stack.settings, AUDIT))
    }
    sequences: dict[str, list[int]] = {camera: [] for camera in cameras}
    for message in read_topic(stack.settings, FRAMES_ANONYMIZED):
        frame = AnonymizedFrame.from_message(message.key(), message.value(), message.headers())
        sequences[frame.id.camera].append(frame.id.sequence)
        audit = audits[str(frame.id)]
        assert audit.output_bytes == len(frame.payload)
        output = images.decode(frame.payload, "image/jpeg", max_pixels=10**6)
        original = images.decode(pictures[frame.id.sequence], "image/jpeg", max_pixels=10**6)
        if frame.id.camera == "unknown":
            assert np.ptp(output) <= 1
        else:
            eyes = (slice(48, 76), slice(68, 108))
            assert abs(output[eyes].astype(int) - original[eyes]).mean() > 8
            assert abs(output[:, :30].astype(int) - original[:, :30]).mean() < 4
    for camera in cameras:
        assert sorted(set(sequences[camera])) == sequences[camera] == list(range(len(pictures)))


def test_garbage_ends_as_audited_outcomes_and_kills_nothing(stack, pictures):
    stack.publish(demonstration_policy("north"))
    messages = [(FRAMES_RAW, raw("north", i, payload, kind)) for i, (payload, kind, *_) in enumerate(GARBAGE)]
    hostile = [
        Message(b"north", b"RAWRAW", [("ce_id", b"\xff\xfe")]),
        Message(b"north", b"RAWRAW", []),
        Message(None, None, []),  # type: ignore[arg-type]
        Message(b"\xff\x00", b"RAWRAW", [("ce_sequence", None), ("ce_time", b"x" * 100_000)]),
    ]
    messages += [(FRAMES_RAW, message) for message in hostile]
    messages += [(FRAMES_RAW, raw("north", len(GARBAGE), pictures[0])), ended("north", len(GARBAGE))]
    send(stack, messages)
    hostile_name = batch(0, b"\xff\xfe\xff\xfe\xff")
    asyncio.run(produce_raw(stack.settings, stack.settings.topic(FRAMES_RAW), hostile_name))
    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)  # the hostile ones have no identity: wait for their audits by number
        while reader.account.report()["frames_in"] < len(GARBAGE) + 2 + len(hostile):
            assert reader.read(30), stack.tail("anonymize")
        report = reader.account.report()
    expected = Counter(str(reason) for *_, outcome, reason in GARBAGE if outcome == "dropped")
    assert report["dropped"] == {**expected, "invalid_envelope": len(hostile) + 1}
    assert report["fully_masked_reasons"] == {"too_small": 1}
    assert report["masked"] == 1
    assert report["unaccounted"] == report["unpublished"] == 0
    for message in [*read_topic(stack.settings, FRAMES_ANONYMIZED), *read_topic(stack.settings, AUDIT)]:
        assert b"RAWRAW" not in message.value()
    assert "worker ended" not in stack.log("anonymize").read_text()


def test_nothing_is_lost_when_a_worker_is_killed(stack, pictures):
    cameras = ("north", "south", "east")
    stack.publish(*(demonstration_policy(camera) for camera in cameras))
    count = 200
    send(stack, [(FRAMES_RAW, raw(c, i, pictures[i % len(pictures)])) for i in range(count) for c in cameras])
    send(stack, [ended(camera, count - 1) for camera in cameras])
    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        for share in (0.1, 0.4):
            while reader.account.report()["masked"] < share * 3 * count:
                reader.read(0.2)
                stack.check()
            os.kill(faust_worker(stack), signal.SIGKILL)
        settle(stack, reader)
        report = reader.account.report()
    assert report["masked"] == report["frames_in"] == 3 * count
    assert report["unaccounted"] == 0
    assert stack.log("anonymize").read_text().count("worker ended with status -9") == 2
    first_seen: dict[str, list[int]] = {camera: [] for camera in cameras}
    seen = set()
    for message in read_topic(stack.settings, FRAMES_ANONYMIZED):
        frame = AnonymizedFrame.from_message(message.key(), message.value(), message.headers())
        if frame.id not in seen:
            first_seen[frame.id.camera].append(frame.id.sequence)
        seen.add(frame.id)
    assert all(sequences == list(range(count)) for sequences in first_seen.values()), "out of order"


def test_nothing_is_lost_when_a_worker_ends_while_frames_wait_for_later_ones(stack, pictures):
    """Killed, then told to end, each time with frames in it that were detected and have no outcome."""
    cameras, count = ("north", "south"), 30
    stack.publish(*(demonstration_policy(c).model_copy(update={"lookahead": 2.0}) for c in cameras))
    send(stack, [(FRAMES_RAW, raw(c, i, pictures[i])) for i in range(count) for c in cameras])
    send(stack, [ended(camera, count - 1) for camera in cameras])

    def wait_until_held() -> None:
        stack.wait_for("anonymize", TIMEOUT, lambda: stack.metric("sfumato_held_events") >= count // 2)

    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        wait_until_held()
        os.kill(faust_worker(stack), signal.SIGKILL)
        reader.read(0.2)
        assert reader.account.report()["masked"] < 2 * count
        wait_until_held()
        assert stack.stop("anonymize") == 0
        stack.start("anonymize")
        settle(stack, reader)
        report = reader.account.report()
    assert report["masked"] == report["frames_in"] == 2 * count
    assert report["unaccounted"] == report["unpublished"] == 0
    events = [AuditEvent.from_message(message.value()) for message in read_topic(stack.settings, AUDIT)]
    assert max(event.timings_ms.wait for event in events) > 1000
    for camera in cameras:
        sequences = [event.sequence for event in events if event.camera == camera]
        assert list(dict.fromkeys(sequences)) == list(range(count))


def test_nothing_is_lost_when_the_broker_is_killed(pictures, tmp_path):
    """kill -9 of Apache Kafka in mid-run; it comes back on the same port with its data."""
    cameras, count = ("north", "south"), 150
    with Stack("kafka", tmp_path, partitions=2) as stack:
        stack.publish(*(demonstration_policy(camera) for camera in cameras))
        send(stack, [(FRAMES_RAW, raw(c, i, pictures[i % len(pictures)])) for i in range(count) for c in cameras])
        send(stack, [ended(camera, count - 1) for camera in cameras])
        stack.start("anonymize")
        with TopicReader(stack.settings) as reader:
            while reader.account.report()["masked"] < 0.2 * 2 * count:
                reader.read(0.2)
                stack.check()
        stack.broker.kill()
        stack.broker.start()
        with TopicReader(stack.settings) as reader:
            settle(stack, reader)
            report = reader.account.report()
    assert report["masked"] == report["frames_in"] == 2 * count
    assert report["unaccounted"] == 0


def test_a_policy_takes_effect_without_a_restart(stack, pictures):
    stack.start("anonymize")
    send(stack, [(FRAMES_RAW, raw("north", 0, pictures[0]))])
    with TopicReader(stack.settings) as reader:
        while reader.account.report()["fully_masked"] < 1:
            reader.read(0.2)
            stack.check()
        stack.publish(demonstration_policy("north"))
        sequence = 0
        while reader.account.report()["masked"] < 1:
            sequence += 1
            send(stack, [(FRAMES_RAW, raw("north", sequence, pictures[0]))])
            while len(reader.account.epochs["north", EPOCH].audited) <= sequence:
                reader.read(0.2)
                stack.check()
            assert sequence < 50
    assert stack.stop("anonymize") == 0


def test_faust_runs_the_same_app(stack, pictures):
    """``faust -A sfumato.agents.app worker`` does what ``sfumato anonymize`` does."""
    stack.publish(demonstration_policy("north"))
    send(stack, [(FRAMES_RAW, raw("north", 0, pictures[0])), ended("north", 0)])
    environment = {
        **os.environ,
        "SFUMATO_BOOTSTRAP_SERVERS": stack.settings.bootstrap_servers,
        "SFUMATO_TOPIC_PREFIX": stack.settings.topic_prefix,
        "SFUMATO_GROUP_ID": stack.settings.topic_prefix + "faust",
        "SFUMATO_STATE_DIR": str(stack.settings.state_dir),
    }
    command = [sys.executable, "-m", "faust", "-A", "sfumato.agents.app", "worker", "--without-web"]
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with TopicReader(stack.settings) as reader:
            assert reader.settle(TIMEOUT), reader.account.report()
            assert reader.account.report()["masked"] == 1
    finally:
        worker.terminate()
        worker.wait(30)


def faust_worker(stack: Stack) -> int:
    """The pid of the supervisor's worker."""
    supervisor = stack.pid("anonymize")
    children = subprocess.run(["pgrep", "-P", str(supervisor)], capture_output=True, text=True, check=True).stdout
    return int(children.split()[0])
