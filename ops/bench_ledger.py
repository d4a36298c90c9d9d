"""What the ledger costs: audit events per second, and how long one waits for its seal. Part of ``make bench``.

One JSON object on stdout. ``pure``: the account and the tree alone, in one thread; ``sealed``: a topic that was
filled before, through a real ledger, from its first checkpoint to the last, by Kafka's timestamps, and the CPU time of
the ledger's processes from about the one to the other; ``paced``: while events come at a rate, the lag from an event
to the account, which is shown once a second: median and worst. Events are those of a frame with three faces, over some
cameras.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stack import Stack

from sfumato.agents.broker import free_port
from sfumato.agents.ledger.book import Book, Rules
from sfumato.agents.ledger.entries import Place, read_audit
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.agents.produce import Producer
from sfumato.schemas.audit import AuditEvent, DetectorRecord, Origin
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.frame import Message, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import AUDIT, LEDGER

GOAL = 20_000
EVENTS = 200_000
CAMERAS = 8
PACED_SECONDS = 30.0
SETTLED, SAMPLED = 5.0, 0.3
"""Seconds after which the lag is looked at, and between two looks: each at another point of the account's second."""
PACE = 200.0
"""Events a second: more than two cores anonymize."""
TIMEOUT = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="embedded", help="embedded, kafka, or the host:port of your own")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--pace", type=float, default=PACE, help="events per second of the paced part")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sfumato-bench-"))
    say(f"logs: {folder}")
    result = {
        "pure_events_per_s": round(pure(min(options.events, 50_000))),
        **sealed(options, folder / "sealed"),
        **paced(options, folder / "paced"),
        "goal_events_per_s": GOAL,
        "bytes_per_event": len(message(0).value),
        "workers": options.workers,
        "cores": os.cpu_count(),
        "broker": options.broker,
    }
    print(json.dumps(result), flush=True)
    return 0


def message(number: int, epoch: int = 1) -> Message:
    faces = tuple(Detection(target=Target.FACE, score=0.93, box=(128.4, 73.1, 220.2, 194.4)) for _ in range(3))
    now = datetime.now(UTC)
    return AuditEvent(
        id=f"camera-{number % CAMERAS}/{epoch}/{number // CAMERAS}",
        origin=Origin(topic="frames.raw", partition=0, offset=number),
        camera=f"camera-{number % CAMERAS}",
        epoch=epoch,
        sequence=number // CAMERAS,
        outcome=Outcome.MASKED,
        captured_at=now,
        time_source=TimeSource.CAMERA,
        audited_at=now,
        policy_version=1,
        detectors=(DetectorRecord(name="centerface", weights_sha256="c" * 64),),
        detections=faces,
        width=1280,
        height=720,
        input_bytes=100_000,
        input_sha256="a" * 64,
        output_bytes=100_000,
        output_sha256="b" * 64,
    ).to_message()


def pure(count: int) -> float:
    signer = Signer("bench.example", Ed25519PrivateKey.generate())
    book, place = Book(signer, Rules(1500, 60.0, 60.0, 600.0), lambda name, version: None, {}), Place("audit", 0)
    book.open(place, [], [])
    messages = [message(number) for number in range(count)]
    started = time.perf_counter()
    for offset, each in enumerate(messages):
        book.take(place, offset, read_audit(each.key, each.value, 0), 0.0)
        if offset % 1000 == 0:
            for each in (each for sealed in book.sealed() for each in sealed):
                each.head.to_message()
    return count / (time.perf_counter() - started)


def sealed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with Stack(options.broker, folder, partitions=max(2, options.workers)) as stack:
        # Whole segments: what is left of a log is sealed by time, and the wait for it would be measured.
        whole = CAMERAS * stack.settings.ledger_segment_events
        events = math.ceil(options.events / whole) * whole
        producer = Producer(stack.settings, client_id="bench")
        for number in range(events):
            while not producer.try_send(AUDIT, message(number), lambda error: None):
                time.sleep(0.01)
        if producer.close(TIMEOUT):
            raise SystemExit("bench: the broker did not take the events")
        stack.start("ledger", "--workers", str(options.workers), metrics_port=0)
        found = Checkpoints(stack)
        before = 0.0
        while found.leaves < events:
            stack.check()
            found.read()
            if not before and found.leaves:
                before, read_before = stack.cpu_seconds("ledger"), found.leaves
        used = stack.cpu_seconds("ledger") - before
        found.close()
    return {
        "sealed_events": events,
        "sealed_events_per_s": round((found.leaves - found.first_leaves) / (found.last - found.first)),
        "sealed_cpu_us_per_event": round(used / (events - read_before) * 1e6, 1),
        "start_cpu_s": round(before, 2),
    }


def paced(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The lag in seconds, over all but the first seconds, and the share of a core, while events come."""
    port = free_port()
    with Stack(options.broker, folder, partitions=2) as stack:
        stack.start("ledger", metrics_port=port)
        stack.wait_for("ledger", 60, lambda: stack.metric("sfumato_ledger_assigned_partitions", port) == 3)
        producer = Producer(stack.settings, client_id="bench")
        found, lags, number = Checkpoints(stack), [], 0
        started, cpu = time.monotonic(), stack.cpu_seconds("ledger")
        while (passed := time.monotonic() - started) < PACED_SECONDS:
            while number < passed * options.pace:
                producer.send(AUDIT, message(number), lambda error: None)
                number += 1
            if passed > SETTLED + len(lags) * SAMPLED:
                taken = stack.metric("sfumato_ledger_frames", port) / 2  # as ingested, and as what became of it
                lags.append(max(0.0, number - taken) / options.pace)
            time.sleep(0.01)
            stack.check()
        used = (stack.cpu_seconds("ledger") - cpu) / (time.monotonic() - started)
        producer.close(30)
        stack.stop("ledger")
        while found.leaves < number:
            found.read()
        found.close()
    return {
        "paced_events_per_s": round(number / PACED_SECONDS),
        "paced_lag_s": {"p50": round(median(lags), 2), "worst": round(max(lags), 2)},
        "paced_cores": round(used, 3),
    }


class Checkpoints:
    """Follows ``ledger``: how many leaves are sealed, and when the first and last checkpoint came, in seconds."""

    def __init__(self, stack: Stack) -> None:
        self.sizes: dict[str, int] = {}
        self.first = self.last = 0.0
        self.first_leaves = 0
        self._deadline = time.monotonic() + TIMEOUT
        self._consumer = Consumer({"bootstrap.servers": stack.settings.bootstrap_servers, "group.id": "bench"})
        self._consumer.assign([TopicPartition(stack.settings.topic(LEDGER), 0, OFFSET_BEGINNING)])

    @property
    def leaves(self) -> int:
        return sum(self.sizes.values())

    def read(self) -> None:
        if time.monotonic() > self._deadline:
            raise SystemExit(f"bench: {self.leaves} leaves are sealed, and no more come")
        for found in self._consumer.consume(100, timeout=0.1):
            if found.error():
                continue
            checkpoint = Checkpoint.parse((found.value() or b"").decode().rpartition("\n\n")[0] + "\n")
            self.sizes[checkpoint.origin] = max(self.sizes.get(checkpoint.origin, 0), checkpoint.size)
            self.last = found.timestamp()[1] / 1000
            if not self.first:
                self.first, self.first_leaves = self.last, self.leaves

    def close(self) -> None:
        self._consumer.close()


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
