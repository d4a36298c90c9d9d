"""The embedded broker as a process: start, memory guard, failures, end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apache_kafka
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sfumato.agents.broker import (
    MEMORY_EXIT_CODE,
    BrokerError,
    EmbeddedBroker,
    answers,
    default_memory_limit,
    free_port,
)

MIB = 2**20


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(memory_limit=200 * MIB) as broker:
        yield broker


def _topic(bootstrap_servers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)]).values():
        future.result()


def _fill(bootstrap_servers: str, mebibytes: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.max.bytes": 2 * MIB})
    for _ in range(mebibytes):
        producer.produce("t", os.urandom(MIB))
        producer.flush(10)


def _sfumato(*arguments: str, **settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sfumato.agents.cli", *arguments]
    environment = {**os.environ, **settings}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0], "printed nothing"
    return process.stdout.readline().strip()


def test_keeps_what_is_produced(embedded: EmbeddedBroker) -> None:
    _topic(embedded.bootstrap_servers, "t")
    producer = Producer({"bootstrap.servers": embedded.bootstrap_servers})
    producer.produce("t", b"kept")
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": embedded.bootstrap_servers, "group.id": "g"})
    consumer.assign([TopicPartition("t", 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert message.value() == b"kept"


def test_near_limit_from_80_percent(embedded: EmbeddedBroker) -> None:
    _topic(embedded.bootstrap_servers, "t")
    assert not embedded.near_limit()
    _fill(embedded.bootstrap_servers, 180)
    assert 0.8 <= embedded.memory_share() < 2
    assert embedded.near_limit()


def test_stop_frees_the_port_and_start_serves_again() -> None:
    broker = EmbeddedBroker()
    for _ in range(2):
        broker.start()
        assert answers(broker.bootstrap_servers, 5)
        broker.stop()
        assert not broker.alive
        assert not answers(broker.bootstrap_servers, 0.5)
    with pytest.raises(BrokerError, match="no longer runs"):
        broker.memory_share()


def test_takes_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "s3://elsewhere/")
    monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:1")
    with EmbeddedBroker() as broker:
        environment = Path(f"/proc/{broker.pid}/environ").read_bytes()
    assert environment == b"RUST_LOG=error\0"


def test_port_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} of 127.0.0.1 is taken"):
            EmbeddedBroker(port).start()
        process = _sfumato("broker", "--port", str(port))
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.startswith(f"Error: embedded broker: port {port} of 127.0.0.1 is taken")


def test_absent_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "absent"))
    with pytest.raises(BrokerError, match=r"no binary for this machine .*Use Apache Kafka instead"):
        EmbeddedBroker().start()


def test_binary_that_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho cannot do this >&2\nexit 7\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(BrokerError, match="ended while starting\ncannot do this"):
        EmbeddedBroker().start()


def test_command_warns_then_ends_at_its_memory_limit() -> None:
    process = _sfumato("broker", "--port", "0", SFUMATO_BROKER_MEMORY_BYTES=str(200 * MIB))
    bootstrap_servers = _line(process)
    _topic(bootstrap_servers, "t")
    assert process.stderr is not None
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.max.bytes": 2 * MIB, "log_level": 0})
    warning = ""
    for _ in range(400):
        if process.poll() is not None:
            break
        producer.produce("t", os.urandom(MIB))
        producer.flush(0.5)
        # Slowly: the guard looks twice a second, and must see it between 80 and 100 %.
        if not warning and select.select([process.stderr], [], [], 0.05)[0]:
            warning = process.stderr.readline()
    assert process.wait(20) == MEMORY_EXIT_CODE == 3
    rest = process.stderr.read()
    assert "of the memory limit of 200 MiB (SFUMATO_BROKER_MEMORY_BYTES) used" in warning + rest
    assert "memory limit of 200 MiB (SFUMATO_BROKER_MEMORY_BYTES) reached: ending" in rest
    assert "use Apache Kafka" in rest
    assert not answers(bootstrap_servers, 0.5)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_command_ends_in_good_order(signum: int) -> None:
    process = _sfumato("broker", "--port", "0")
    bootstrap_servers = _line(process)
    assert answers(bootstrap_servers, 5)
    process.send_signal(signum)
    assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert not answers(bootstrap_servers, 0.5)


def test_broker_dies_with_its_parent() -> None:
    process = _sfumato("broker", "--port", "0")
    port = int(_line(process).rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(10)
    process.kill()
    with contextlib.suppress(ConnectionResetError):  # a broker killed early in the connection resets it
        assert connection.recv(1) == b""  # the broker's end of the connection closed
    process.wait(10)


def test_default_limit_is_a_quarter_of_the_machine_at_most() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert default_memory_limit() == min(2 * 1024 * MIB, machine // 4)


def test_kafka_killed_and_started_again_keeps_its_data() -> None:
    with apache_kafka.ApacheKafka() as kafka:
        _topic(kafka.bootstrap_servers, "kept")
        address = kafka.bootstrap_servers
        kafka.kill()
        assert not kafka.alive
        kafka.start()
        assert kafka.bootstrap_servers == address
        assert "kept" in AdminClient({"bootstrap.servers": address}).list_topics(timeout=20).topics


def test_kafka_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerError, match="needs Java 17 or newer, found none"):
        apache_kafka.ApacheKafka().start()
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    with pytest.raises(BrokerError, match=r"needs Java 17 or newer; .*11\.0\.2"):
        apache_kafka.ApacheKafka().start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BrokerError, match="Maven, which fetches them, is missing"):
        apache_kafka.jars()


def test_unstarted_broker_is_a_named_error() -> None:
    with pytest.raises(BrokerError, match="not started"):
        _ = EmbeddedBroker(free_port()).pid
