"""The second look with real workers, on both brokers: a leak is found, suspends its camera, and a person lifts that."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psutil
import pytest
from confluent_kafka import Producer
from stack import Stack, _environment, demonstration_policy

from sfumato.agents.broker import free_port
from sfumato.agents.finds import Ledger
from sfumato.agents.follow import Follower
from sfumato.models import images
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.find import Find
from sfumato.schemas.frame import AnonymizedFrame, Message, TimeSource
from sfumato.schemas.inspection import Inspection
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.topics import FINDS, FRAMES_ANONYMIZED, FRAMES_RAW, SUSPENSIONS
from tests.ingesting import read_topic
from tests.test_end_to_end import EPOCH, raw, send
from tests.test_transport import batch, produce_raw

TIMEOUT = 120.0
EVERY_FRAME = Inspection(per_minute=600, leak_budget=2)


class Watched:
    """A stack with an inspecting worker that looks at nearly every frame."""

    def __init__(self, stack: Stack, budget: float = 1.0) -> None:
        self.stack = stack
        self.port = free_port()
        self._budget = budget

    def publish(self, *cameras: str, inspect: Inspection = EVERY_FRAME) -> None:
        self.stack.publish(*(demonstration_policy(c).model_copy(update={"inspect": inspect}) for c in cameras))

    def start(self) -> None:
        self.stack.start("inspect", metrics_port=self.port, inspect_budget=self._budget)

    def metric(self, name: str) -> float:
        return self.stack.metric(name, self.port)

    def kill(self) -> None:
        """kill -9 of the supervisor and its worker."""
        supervisor = psutil.Process(self.stack.pid("inspect"))
        self.until(lambda: supervisor.children() != [])
        for process in [supervisor, *supervisor.children(recursive=True)]:
            process.kill()
        self.stack.wait_until_ended("inspect", 10)
        self.stack.stop("inspect")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            self.stack.check()
            assert time.monotonic() < deadline, self.stack.tail("inspect")
            time.sleep(0.1)

    def finds(self) -> list[Find]:
        return [Find.from_message(m.key(), m.value()) for m in read_topic(self.stack.settings, FINDS)]

    def suspensions(self) -> list[Suspension]:
        return [Suspension.from_message(m.key(), m.value()) for m in read_topic(self.stack.settings, SUSPENSIONS)]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sfumato.agents.cli", *arguments]
        environment = _environment(self.stack.settings)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def watched(stack: Stack) -> Watched:
    return Watched(stack)


def leak(camera: str, sequence: int, picture: bytes) -> Message:
    """A face that nobody masked, as the anonymizer would publish it."""
    frame = AnonymizedFrame(
        id=FrameId(camera, EPOCH, sequence),
        captured_at=datetime.now(UTC),
        time_source=TimeSource.ARRIVAL,
        width=176,
        height=144,
        content_type="image/jpeg",
        payload=picture,
        outcome=Outcome.MASKED,
        reason=None,
        policy_version=1,
        detections=(),
    )
    return frame.to_message()


def leaks(watched: Watched, pictures: list[bytes], *sequences: int, camera: str = "north") -> None:
    put(watched, [leak(camera, sequence, pictures[0]) for sequence in sequences])


def put(watched: Watched, messages: list[Message]) -> None:
    """Each in a slot of its own: a camera that sends nine pictures a second, by the broker's clock."""
    settings, due = watched.stack.settings, threading.Event()
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for message in messages:
        topic = settings.topic(FRAMES_ANONYMIZED)
        producer.produce(topic, value=message.value, key=message.key, headers=message.headers)
        assert producer.flush(30) == 0
        due.wait(0.11)


def published(watched: Watched, camera: str, sequence: int, picture: bytes) -> dict[str, bytes]:
    """The headers of what the anonymizer makes of a raw frame."""
    send(watched.stack, [(FRAMES_RAW, raw(camera, sequence, picture))])
    found: list[dict[str, bytes]] = []

    def there() -> bool:
        found[:] = [
            headers
            for message in read_topic(watched.stack.settings, FRAMES_ANONYMIZED)
            if (headers := dict(message.headers() or []))["ce_id"] == f"{camera}/{EPOCH}/{sequence}".encode()
        ]
        return bool(found)

    watched.until(there)
    return found[0]


def test_a_leak_suspends_the_camera_until_a_person_lifts_it(watched, pictures):
    """Also over a restart of every process, and through kill -9 of the inspecting one."""
    watched.publish("north", "south")
    watched.stack.start("anonymize")
    watched.start()
    assert published(watched, "north", 0, pictures[0])["ce_outcome"] == b"masked"
    leaks(watched, pictures, 100, 101)
    watched.until(lambda: len(watched.finds()) == 2)
    assert watched.suspensions() == []  # the budget is 2

    watched.kill()
    leaks(watched, pictures, 102)
    watched.start()  # it counts the finds of the one that was killed
    watched.until(lambda: watched.suspensions() != [])
    (suspension,) = watched.suspensions()
    assert (suspension.camera, suspension.finds, suspension.by) == ("north", 3, "sfumato inspect")
    assert sorted(find.sequence for find in watched.finds()) == [100, 101, 102]  # each once, by whichever detector

    masked = published(watched, "north", 1, pictures[0])
    while masked["ce_outcome"] == b"masked":  # on its way within two seconds
        assert int(masked["ce_sequence"]) < 20
        masked = published(watched, "north", int(masked["ce_sequence"]) + 1, pictures[0])
    assert (masked["ce_outcome"], masked["ce_reason"]) == (b"fully_masked", b"suspended")
    assert published(watched, "south", 0, pictures[0])["ce_outcome"] == b"masked"
    watched.until(lambda: watched.metric("sfumato_camera_suspended") == 1)

    for verb in ("anonymize", "inspect"):
        assert watched.stack.stop(verb) == 0
    watched.stack.start("anonymize")
    assert published(watched, "north", 50, pictures[0])["ce_reason"] == b"suspended"

    (listed,) = watched.cli("suspension", "list").stdout.splitlines()
    assert json.loads(listed)["camera"] == "north"
    assert watched.cli("suspension", "lift", "north").returncode == 2  # who and why are asked for
    nobody = watched.cli("suspension", "lift", "north", "--by", "", "--note", "x")
    assert (nobody.returncode, nobody.stderr.count("Traceback")) == (1, 0)
    assert "by:" in nobody.stderr
    lifted = watched.cli("suspension", "lift", "north", "--by", "A. Person", "--note", "a poster; zone added")
    assert lifted.returncode == 0, lifted.stderr
    again = watched.cli("suspension", "lift", "north", "--by", "A. Person", "--note", "again")
    assert again.returncode == 1
    assert "is not suspended" in again.stderr
    history = [json.loads(line) for line in watched.cli("suspension", "show", "north").stdout.splitlines()]
    assert [(entry["state"], entry["by"]) for entry in history] == [
        ("suspended", "sfumato inspect"),
        ("lifted", "A. Person"),
    ]
    assert watched.cli("suspension", "list").stdout == ""
    sequence = 60
    while published(watched, "north", sequence, pictures[0])["ce_outcome"] != b"masked":
        sequence += 1
        assert sequence < 80

    watched.start()  # what was found before the lift does not suspend it again
    leaks(watched, pictures, 200)
    watched.until(lambda: any(find.sequence == 200 for find in watched.finds()))
    watched.until(lambda: watched.metric("sfumato_inspect_lag_frames") == 0)
    assert len(watched.suspensions()) == 2


def test_masked_faces_are_no_finds(watched, pictures):
    watched.publish("north")
    watched.stack.start("anonymize")
    watched.start()
    for sequence in range(5):
        assert published(watched, "north", sequence, pictures[sequence])["ce_outcome"] == b"masked"
    watched.until(lambda: watched.metric("sfumato_inspected_frames_total") >= 1)
    leaks(watched, pictures, 100)
    watched.until(lambda: watched.finds() != [])
    assert {find.sequence for find in watched.finds()} == {100}


def test_kill_9_loses_no_find_and_counts_none_twice(watched, pictures):
    """Large pictures, so that the worker is in the middle of them when it is killed."""
    watched.publish("north", "south", inspect=Inspection(per_minute=600, leak_budget=1000))
    large = images.resize(images.decode(pictures[0], "image/jpeg", max_pixels=10**6), 1056, 864)
    for camera in ("north", "south"):
        leaks(watched, [images.encode(large, 85)], *range(10), camera=camera)
    frames: set[FrameId] = set()
    finds = Follower(
        watched.stack.settings, FINDS, lambda key, value, _: frames.add(Find.from_message(key, value).frame)
    )
    finds.load()
    watched.start()
    watched.until(lambda: len(frames) >= 3)
    watched.kill()
    assert len(frames) < 20
    watched.start()
    watched.until(lambda: len(frames) == 20)
    finds.close()
    assert watched.suspensions() == []
    ledger = Ledger()
    assert sum(map(ledger.add, watched.finds())) == len({find.id for find in watched.finds()})


def test_garbage_does_not_stop_it(watched, pictures):
    watched.publish("north")
    key, value, headers = leak("north", 0, pictures[0])
    hostile = [
        Message(b"north", b"RAWRAW", [("ce_id", b"\xff\xfe")]),
        Message(b"north", b"RAWRAW", []),
        Message(None, None, []),  # type: ignore[arg-type]
    ]
    send(watched.stack, [(FRAMES_ANONYMIZED, message) for message in hostile])
    undecodable = [Message(key, value[:-300], headers), Message(key, b"\xff\xd8\xff", headers)]
    put(watched, [*undecodable, *[leak("north", 1, pictures[0])] * 5])
    settings = watched.stack.settings
    asyncio.run(produce_raw(settings, settings.topic(FRAMES_ANONYMIZED), batch(0, b"\xff\xfe\xff\xfe\xff")))
    asyncio.run(produce_raw(settings, settings.topic(FINDS), batch(0, b"\xff\xfe\xff\xfe\xff")))
    send(watched.stack, [(FINDS, Message(b"north", b"{}", [])), (SUSPENSIONS, Message(b"\xff", b"{}", []))])
    watched.start()

    def found() -> set[int]:
        messages = [m for m in read_topic(settings, FINDS) if m.value() not in (b"v", b"{}")]
        return {Find.from_message(m.key(), m.value()).sequence for m in messages}

    watched.until(lambda: found() == {1})
    watched.until(lambda: watched.metric("sfumato_inspect_skipped_frames_total") >= 6)
    assert "RAWRAW" not in watched.stack.log("inspect").read_text()
    assert "worker ended" not in watched.stack.log("inspect").read_text()
