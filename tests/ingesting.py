"""``sfumato ingest`` as a process of its own, and what it wrote to Kafka."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from sfumato.agents.broker import free_port
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Opener
from sfumato.agents.settings import Settings
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW, Topic

TIMEOUT = 60.0


class Ingest:
    """A context manager; the process is killed at its end if the test has not ended it."""

    def __init__(self, settings: Settings, folder: Path, *arguments: str, **overrides: Any) -> None:
        self.metrics_port = free_port()
        self._log = folder / "ingest.log"
        given = {
            "bootstrap_servers": settings.bootstrap_servers,
            "topic_prefix": settings.topic_prefix,
            "state_dir": settings.state_dir,
            "metrics_port": self.metrics_port,
            **overrides,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sfumato.agents.cli", "ingest", *arguments],
                env={**os.environ, **{f"SFUMATO_{name.upper()}": str(value) for name, value in given.items()}},
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have the labels."""
        try:
            families = text_string_to_metric_families(self.metrics())
        except OSError:
            return 0.0
        samples = [sample for family in families for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def until_frames(self, camera: str, frames: int) -> None:
        self.until(lambda: self.metric("sfumato_ingested_frames_total", camera=camera) >= frames)


def read_topic(settings: Settings, topic: Topic) -> list[Message]:
    """Every message of a topic, with an ordinary client."""
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": "outside", "enable.partition.eof": True}
    )
    name = settings.topic(topic)
    partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in partitions])
    found, ends = [], 0
    while ends < len(partitions):
        message = consumer.poll(20)
        assert message is not None, f"{name} could not be read to its end"
        if message.error():
            ends += 1
        else:
            found.append(message)
    consumer.close()
    return found


def frames(settings: Settings) -> dict[str, list[RawFrame]]:
    """What lies on ``frames.raw``, opened, by camera, in the order of its partition."""
    opener = Opener(stores.make(settings))
    found: dict[str, list[RawFrame]] = defaultdict(list)
    for message in read_topic(settings, FRAMES_RAW):
        frame = opener.open(RawFrame.from_message(message.key(), message.value(), message.headers()))
        found[frame.id.camera].append(frame)
    return found


def epochs(settings: Settings) -> dict[str, list[EpochRecord]]:
    found: dict[str, list[EpochRecord]] = defaultdict(list)
    for message in read_topic(settings, EPOCHS):
        record = EpochRecord.from_message(message.value())
        found[record.camera].append(record)
    return found


def assert_gapless(found: list[RawFrame], records: list[EpochRecord]) -> None:
    """One epoch, sequences from 0 in order without gap or repeat, and an end record that agrees."""
    assert {frame.id.epoch for frame in found} | {record.epoch for record in records} == {records[0].epoch}
    assert [frame.id.sequence for frame in found] == list(range(len(found)))
    assert [record.state for record in records].count("begun") == 1
    assert (records[0].state, records[-1].state) == ("begun", "ended")
    assert records[-1].last_sequence == len(found) - 1
