"""Pictures with a face left open, put on ``frames.anonymized`` as if a camera's masking had missed it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Self

from confluent_kafka import KafkaError
from stack import Stack

from drills import load
from sfumato.agents.produce import Producer
from sfumato.models import images
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import FRAMES_ANONYMIZED

PER_SECOND = 4.0


class Planting(threading.Thread):
    """A context manager. ``camera`` is none that anybody reads; its policy has every picture looked at, for ever."""

    camera = "planted"

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="planting", daemon=True)
        self._stack = stack
        self._sent: set[str] = set()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        everything = {"per_minute": 600.0, "leak_budget": 1_000_000}
        self._stack.publish(load.policy(self.camera, inspect=everything))
        self._producer = Producer(self._stack.settings, client_id="drill-planting")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> set[str]:
        """No more pictures; returns the ids of those that the broker has."""
        if self.is_alive():
            self._stopping.set()
            self.join()
            self._producer.close(10)
        return set(self._sent)

    def run(self) -> None:
        epoch, shown, sequence = time.time_ns() // 1_000_000, load.pictures(), 0
        while not self._stopping.wait(1 / PER_SECOND):
            picture = images.encode(shown[sequence % len(shown)], 85)
            self._send(frame(FrameId(self.camera, epoch, sequence), picture))
            sequence += 1

    def _send(self, planted: AnonymizedFrame) -> None:
        arrived = threading.Event()

        def answered(error: KafkaError | None) -> None:
            if error is None:
                self._sent.add(str(planted.id))
            arrived.set()

        self._producer.send(FRAMES_ANONYMIZED, planted.to_message(), answered)
        arrived.wait()  # two in one moment would be one to the sampler


def frame(id: FrameId, picture: bytes) -> AnonymizedFrame:
    """The picture as a masked one in which nothing was found."""
    return AnonymizedFrame(
        id=id,
        captured_at=datetime.now(UTC),
        time_source=TimeSource.ARRIVAL,
        width=load.WIDTH,
        height=load.HEIGHT,
        content_type="image/jpeg",
        payload=picture,
        outcome=Outcome.MASKED,
        reason=None,
        policy_version=1,
        detections=(),
    )
