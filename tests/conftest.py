"""Real brokers for the tests. ``-k embedded`` or ``-k kafka`` picks one; none is ever skipped."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import apache_kafka
import av
import pytest
from clips import clip
from confluent_kafka.admin import AdminClient
from postgresql import PostgreSQL, postgresql
from stack import Stack

from sfumato.agents import exits, provision
from sfumato.agents.broker import BrokerError, EmbeddedBroker, answers, free_port
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.settings import Settings
from sfumato.models import images
from tests.jobbing import Workshop, workshop


@dataclass(frozen=True)
class Broker:
    """A running broker: ``kind`` is ``embedded`` or ``kafka``."""

    kind: str
    bootstrap_servers: str


@pytest.fixture(scope="session", params=["embedded", "kafka"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """One of each kind for the whole session; of one kind only: ``parametrize("broker", ["kafka"], indirect=True)``."""
    if request.param == "embedded":
        with EmbeddedBroker() as embedded:
            yield Broker("embedded", embedded.bootstrap_servers)
    elif _docker_answers():
        with _container() as bootstrap_servers:
            yield Broker("kafka", bootstrap_servers)
    else:
        with apache_kafka.ApacheKafka() as kafka:
            yield Broker("kafka", kafka.bootstrap_servers)


@pytest.fixture
def settings(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a topic prefix of this test's own; its topics are deleted afterwards."""
    unique = uuid.uuid4().hex[:12]
    settings = Settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=f"t{unique}.",
        group_id=f"g{unique}",
        partitions=2,
        state_dir=tmp_path_factory.mktemp("state"),
    )
    yield settings
    delete_topics(settings)


@pytest.fixture
def topics(settings: Settings) -> Settings:
    """Settings whose topics exist."""
    provision.create(settings)
    return settings


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """One server for the whole session; who stops it takes one of their own."""
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of an empty database, of both kinds; empty: SQLite in the state folder."""
    return request.getfixturevalue("postgres").database() if request.param == "postgresql" else ""


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, database_url=database_url) as made:
        yield made


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A man's face, 176x144, 30 frames as JPEG."""
    with av.open(str(clip("carphone"))) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in islice(container.decode(video=0), 30)]
    return [images.encode(frame, 90) for frame in frames]


@pytest.fixture
def stack(broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    """The processes of sfumato on the session's broker, with topics of their own."""
    with Stack(broker.bootstrap_servers, tmp_path, partitions=2) as stack:
        list(fetch_weights(stack.settings))
        yield stack


class Left(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Why a worker's process was left, with which status."""
    calls: list[tuple[str, int]] = []

    def leave(why: str, status: int) -> None:
        calls.append((why, status))
        raise Left

    monkeypatch.setattr(exits, "leave", leave)
    return calls


def delete_topics(settings: Settings) -> None:
    """Delete every topic that begins with the prefix: the embedded broker holds them in memory otherwise."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(settings.topic_prefix)]
    if names:
        for future in admin.delete_topics(names, request_timeout=10).values():
            future.result()


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def _container() -> Iterator[str]:
    """Apache Kafka's own image, with the properties that ``ops/apache_kafka.py`` sets."""
    from testcontainers.core.container import DockerContainer

    port = free_port()
    properties = apache_kafka.properties(port, controller_port=9093, host="0.0.0.0", advertised="127.0.0.1")
    image = DockerContainer(f"apache/kafka:{apache_kafka.VERSION}").with_bind_ports(port, port)
    for name, value in properties.items():
        image = image.with_env(f"KAFKA_{name.upper().replace('.', '_')}", str(value))
    with image:
        if not answers(f"127.0.0.1:{port}", timeout=120):
            raise BrokerError("Apache Kafka's container does not answer")
        yield f"127.0.0.1:{port}"
