"""Brokers to which something can happen: three of one cluster, one behind a network, one on a small disk."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from apache_kafka import ApacheKafka, cluster_id

from drills.proxy import Network, Proxy
from sfumato.agents.broker import HOST, Broker, BrokerError, BrokerProcess, free_port

SESSION = {"broker.session.timeout.ms": 4000, "broker.heartbeat.interval.ms": 1000}
"""How soon the controller notices that a broker is gone; Kafka's default is 9 s."""
REPLICATED = {
    "default.replication.factor": 3,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": 3,
    "share.coordinator.state.topic.replication.factor": 3,
    "share.coordinator.state.topic.min.isr": 2,
    "transaction.state.log.replication.factor": 3,
    "transaction.state.log.min.isr": 2,
}
SMALL_DISK = 96 * 1024 * 1024
"""Of the file system that is filled, in bytes."""


def pause(broker: BrokerProcess) -> None:
    os.kill(broker.pid, signal.SIGSTOP)


def go_on(broker: BrokerProcess) -> None:
    os.kill(broker.pid, signal.SIGCONT)


class Cluster(Broker):
    """Three nodes, each broker and controller; every topic on all three, two of which must have a message."""

    name = f"{ApacheKafka.name}, three nodes"

    def __init__(self) -> None:
        ports, controllers = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        voters = ",".join(f"{number}@{HOST}:{port}" for number, port in enumerate(controllers, 1))
        shared = cluster_id()
        self.nodes = [
            ApacheKafka(
                port,
                cluster=shared,
                overrides={
                    **REPLICATED,
                    **SESSION,
                    "node.id": number,
                    "controller.quorum.voters": voters,
                    "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
                },
            )
            for number, (port, controller) in enumerate(zip(ports, controllers, strict=True), 1)
        ]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.bootstrap_servers for node in self.nodes)

    @property
    def alive(self) -> bool:
        return sum(node.alive for node in self.nodes) >= 2

    def start(self) -> None:
        with ThreadPoolExecutor(3) as pool:  # none answers before two of them have found one another
            list(pool.map(lambda node: node.start(), self.nodes))

    def stop(self) -> None:
        for node in self.nodes:  # data are not needed any more
            node.kill()
            node.stop()


class Networked(ApacheKafka):
    """Apache Kafka behind a network that can be cut."""

    def __init__(self) -> None:
        self._outside = free_port()
        super().__init__(overrides={"advertised.listeners": f"PLAINTEXT://{HOST}:{self._outside}"})
        self._opened = ExitStack()
        self._proxy: Proxy | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self._outside if self._proxy else self.port}"

    def become(self, network: Network) -> None:
        if self._proxy is not None:
            self._proxy.become(network)

    def start(self) -> None:
        super().start()
        self._proxy = self._opened.enter_context(Proxy(self._outside, self.port))

    def stop(self) -> None:
        self._opened.close()
        super().stop()


class Cramped(ApacheKafka):
    """Apache Kafka whose data lie on a file system of :data:`SMALL_DISK` bytes. Needs root, for the mount."""

    def __init__(self) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="sfumato-disk-"))
        super().__init__(
            data=self.disk / "data",
            overrides={"log.segment.bytes": 8 * 1024 * 1024, "log.index.size.max.bytes": 64 * 1024},
        )

    def __enter__(self) -> Self:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "sfumato-drill", str(self.disk)]
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode:
            self.disk.rmdir()
            raise BrokerError(f"a small file system cannot be mounted (it needs root): {mounted.stderr.strip()}")
        (self.disk / "data").mkdir()
        try:
            return super().__enter__()
        except BaseException:
            self._unmount()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._unmount()

    def fill(self) -> None:
        """Until nothing more fits."""
        with (self.disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(64 * 1024)):
                    pass
            except OSError:
                return

    def empty(self) -> None:
        (self.disk / "ballast").unlink()

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.disk)], check=True)
        self.disk.rmdir()
