"""The whole of sfumato on this machine: a broker and its processes, for the demonstration, benchmarks and drills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from sfumato.agents import policies, provision
from sfumato.agents.access.keys import Keys
from sfumato.agents.broker import Broker, EmbeddedBroker, free_port
from sfumato.agents.database import Database
from sfumato.agents.settings import Settings
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope

if TYPE_CHECKING:
    import psutil

STOP_TIMEOUT = 40.0


class StackError(RuntimeError):
    """A process ended or did not get ready; the text says which and where its log lies."""


class Stack:
    """A context manager. ``broker``: "embedded", "kafka", one to be started, or the address of a running one.

    On a running broker the topics get a prefix of their own and are deleted at the end.
    """

    def __init__(self, broker: str | Broker, folder: Path, **overrides: Any) -> None:
        self.broker_name = broker if isinstance(broker, str) else broker.name
        self._given = None if isinstance(broker, str) else broker
        self.folder = folder
        self.broker: Any = None
        self.settings = Settings(**{"state_dir": folder / "state", **overrides})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        started: dict[str, Any] = {}
        if self._given is not None:
            self.broker = self._opened.enter_context(self._given)
        elif self.broker_name == "embedded":
            self.broker = self._opened.enter_context(EmbeddedBroker(memory_limit=self.settings.broker_memory_bytes))
        elif self.broker_name == "kafka":
            from apache_kafka import ApacheKafka

            self.broker = self._opened.enter_context(ApacheKafka())
        else:
            prefix = f"sfumato-{time.time_ns() // 1_000_000}."
            started = {"topic_prefix": prefix, "group_id": prefix + "anonymize"}
        servers = self.broker.bootstrap_servers if self.broker else self.broker_name
        ports = {"bridge_port": self.settings.bridge_port or free_port(), "metrics_port": free_port()}
        self.settings = self.settings.model_copy(update={"bootstrap_servers": servers, **ports, **started})
        try:
            provision.create(self.settings)
            if self.broker is None:
                self._opened.callback(provision.delete, self.settings)
            provision.check(self.settings)
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for verb in list(self._processes):
            with contextlib.suppress(StackError):
                self.stop(verb)
        self._opened.close()

    def publish(self, *found: Policy) -> None:
        policies.publish(self.settings, list(found))

    def start(
        self,
        verb: str,
        *arguments: str,
        name: str = "",
        module: str = "sfumato.agents.cli",
        environment: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> None:
        """Start ``sfumato VERB``; its log is ``VERB.log`` in the stack's folder. ``name``: of a second one. ``module``:
        what runs in place of ``sfumato``. ``environment``: more of it."""
        # The bridge's metrics are at its own port, and metrics_port is the anonymizer's.
        settings = self.settings.model_copy(update={**({"metrics_port": 0} if verb == "bridge" else {}), **overrides})
        with self.log(name or verb).open("ab") as log:
            self._processes[name or verb] = subprocess.Popen(
                [sys.executable, "-m", module, verb, *arguments],
                env={**_environment(settings), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
            )

    def stop(self, verb: str) -> int:
        """SIGTERM and wait; returns the exit status. :class:`StackError` where it had to be killed."""
        process = self._processes.pop(verb)
        process.terminate()
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise StackError(f"{verb} did not end within {STOP_TIMEOUT:g} s; see {self.log(verb)}") from None

    @property
    def verbs(self) -> list[str]:
        """What was started and not stopped."""
        return [*self._processes]

    def kill(self, verb: str) -> None:
        """kill -9; of a supervisor's workers each ends by itself."""
        process = self._processes.pop(verb)
        process.kill()
        process.wait()

    def pid(self, verb: str) -> int:
        return self._processes[verb].pid

    def workers(self, verb: str) -> list[int]:
        """The pids of a supervisor's workers."""
        import psutil  # `make demo` does without what only tests and benches need

        return [process.pid for process in psutil.Process(self.pid(verb)).children()]

    def check(self, *expected_to_end: str) -> None:
        """:class:`StackError` where the broker or a process has ended by itself."""
        if self.broker is not None and not self.broker.alive:
            raise StackError("the broker has ended")
        for verb, process in self._processes.items():
            if verb not in expected_to_end and process.poll() is not None:
                raise StackError(f"{verb} ended with status {process.returncode}:\n{self.tail(verb)}")

    def wait_until_ended(self, verb: str, timeout: float) -> None:
        """Until the process ends by itself."""
        try:
            self._processes[verb].wait(timeout)
        except subprocess.TimeoutExpired:
            raise StackError(f"{verb} did not end within {timeout:g} s:\n{self.tail(verb)}") from None

    def resident_bytes(self, verb: str) -> int:
        """Resident memory of a process and its workers."""
        return sum(process.memory_info().rss for process in self._family(verb))

    def use(self, verb: str) -> dict[str, int]:
        """What a process and its workers hold: ``bytes`` of resident memory, ``descriptors`` and ``threads``."""
        family = self._family(verb)
        return {
            "bytes": sum(process.memory_info().rss for process in family),
            "descriptors": sum(process.num_fds() for process in family),
            "threads": sum(process.num_threads() for process in family),
        }

    def cpu_seconds(self, verb: str) -> float:
        """User and system CPU time of a process and its workers so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._family(verb))

    def _family(self, verb: str) -> list[psutil.Process]:
        import psutil

        process = psutil.Process(self.pid(verb))
        return [process, *process.children(recursive=True)]

    def running(self, verb: str) -> bool:
        return self._processes[verb].poll() is None

    def log(self, verb: str) -> Path:
        return self.folder / f"{verb}.log"

    def tail(self, verb: str) -> str:
        return "\n".join(self.log(verb).read_text(errors="replace").splitlines()[-15:])

    def wait_for_worker(self, timeout: float = 60.0) -> None:
        """Until the anonymizer has partitions assigned."""
        self.wait_for("anonymize", timeout, lambda: self.metric("sfumato_assigned_partitions") > 0)

    def wait_for_bridge(self, timeout: float = 60.0) -> None:
        """Until the bridge says it is ready."""

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return bool(urllib.request.urlopen(f"{self.bridge_url}/readyz", timeout=2).status == 200)
            return False

        self.wait_for("bridge", timeout, ready)

    @cached_property
    def key(self) -> str:
        """An API key that opens everything of the bridge."""
        database = Database(self.settings)
        database.migrate()
        try:
            return Keys(database).create("stack", Scope, purpose="demonstration", rate=10_000).secret
        finally:
            database.close()

    @property
    def bridge_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.bridge_port}"

    def metric(self, name: str, port: int | None = None) -> float:
        """The sum of a metric's samples as its process exports it; 0 where it does not (yet)."""
        return sum(value for _, value in self.labelled(name, port))

    def labelled(self, name: str, port: int | None = None) -> list[tuple[dict[str, str], float]]:
        """A metric's samples, each with its labels; none where its process does not export it (yet)."""
        found = self._samples(port or self.settings.metrics_port)
        return [(labels, value) for sample, labels, value in found if sample == name]

    def _samples(self, port: int) -> Iterator[tuple[str, dict[str, str], float]]:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
            if port == self.settings.bridge_port:
                request.add_header("Authorization", f"Bearer {self.key}")
            text = urllib.request.urlopen(request, timeout=2).read().decode()
        except (OSError, urllib.error.URLError):
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def wait_for(self, verb: str, timeout: float, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"{verb} was not ready within {timeout:g} s:\n{self.tail(verb)}")
            time.sleep(0.1)


def demonstration_policy(camera: str) -> Policy:
    """Faces as a mosaic under an ellipse: what the demonstration and the benchmark use."""
    return Policy.model_validate(
        {
            "camera": camera,
            "version": 1,
            "controller": "Demonstration",
            "purpose": "Show what sfumato does",
            "lawful_basis": "legitimate_interests",
            "dpia": "none: published test clips",
            "retention_hours": 24,
            "targets": {"face": {"mask": "mosaic", "shape": "ellipse"}},
        }
    )


def _environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a child process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SFUMATO_")}
    given = settings.model_dump(mode="json", exclude_none=True)
    secrets = {name: value for name, value in settings if isinstance(value, SecretStr)}
    given |= {name: value.get_secret_value() for name, value in secrets.items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return {**own, **{f"SFUMATO_{name.upper()}": text for name, text in texts.items()}}
