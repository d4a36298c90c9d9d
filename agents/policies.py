"""The policies in force: the compacted topic read whole at start, then followed.

A change takes effect within a fraction of a second, without a restart. A camera whose newest policy does
not validate has no policy; an empty value (tombstone) withdraws one.
"""

from __future__ import annotations

import json
import logging
import threading
import tomllib
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.models.task import NoPolicy
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.topics import POLICIES

log = logging.getLogger(__name__)


class PolicyError(ValueError):
    """A policies file is not valid; the text names the camera and the field."""


class PolicyStore:
    """Thread-safe. :meth:`start` returns once every policy published before it has been read."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic(POLICIES)
        self._policies: dict[str, Policy | NoPolicy] = {}
        self._loaded = threading.Event()
        self._closing = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": f"{settings.group_id}-policies",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )
        self._reader = threading.Thread(target=self._read, name="policies", daemon=True)

    def start(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        self._reader.start()
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"{self._topic} could not be read within {timeout} s; is the broker up?")

    def get(self, camera: str) -> Policy | NoPolicy:
        return self._policies.get(camera, NoPolicy(Reason.NO_POLICY))

    def close(self) -> None:
        self._closing.set()
        self._reader.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            if (error := message.error()) is None:
                self._take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._loaded.set()
            else:
                log.warning("reading policies: %s", error.str())

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        camera = (key or b"").decode(errors="replace")
        if not value:
            self._policies.pop(camera, None)
            return
        try:
            self._policies[camera] = policy = Policy.from_message(key, value)
        except EnvelopeError as error:
            self._policies[camera] = NoPolicy(Reason.INVALID_POLICY, str(error)[:500])
            log.error("camera %s has no valid policy and will be fully masked: %s", camera, error)
        else:
            log.info("policy %s version %d", camera, policy.version)
            for warning in policy.warnings():
                log.warning("policy %s version %d: %s", camera, policy.version, warning)


def read_file(path: Path) -> list[Policy]:
    """The policies of a TOML file: ``[defaults]`` and one ``[[policy]]`` table per camera."""
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None
    if unknown := document.keys() - {"defaults", "policy"}:
        raise PolicyError(f"{path}: unknown key {', '.join(sorted(unknown))}; known: defaults, policy")
    policies = [_read_row(path, {**document.get("defaults", {}), **row}) for row in document.get("policy", [])]
    if not policies:
        raise PolicyError(f"{path}: holds no [[policy]]")
    cameras = [policy.camera for policy in policies]
    if len(set(cameras)) < len(cameras):
        raise PolicyError(f"{path}: a camera has two policies")
    return policies


def publish(settings: Settings, policies: list[Policy], timeout: float = 30.0) -> None:
    """Publish policies and wait until the broker has them; KafkaException or TimeoutError where it refuses."""
    producer = Producer(settings, client_id="sfumato-policies")
    failures: list[KafkaError] = []
    for policy in policies:
        producer.send(POLICIES, policy.to_message(), lambda error: failures.append(error) if error else None)
    if producer.close(timeout):
        raise TimeoutError(f"the broker took no policies within {timeout} s; is it up?")
    if failures:
        raise KafkaException(failures[0])


def _read_row(path: Path, row: dict[str, Any]) -> Policy:
    camera = str(row.get("camera", "?"))
    try:
        return Policy.from_message(camera.encode(), json.dumps(row).encode())
    except (EnvelopeError, TypeError) as error:
        raise PolicyError(f"{path}: policy of camera {camera!r}: {error}") from None
