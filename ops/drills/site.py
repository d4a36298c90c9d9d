"""A running sfumato under load, watched: what a drill does its fault to."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from confluent_kafka import Message
from stack import Stack, StackError

from drills import load, marker
from drills.counting import TOPICS, Arrival, Tally
from drills.report import Row
from drills.witness import Witness
from sfumato.agents.broker import Broker, EmbeddedBroker
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.supervise import STEADY
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.topics import Topic

PATIENCE = 120.0
"""Longest wait, in seconds, for outputs to flow again and for the last frames to have their outcomes."""
QUIET = 3.0
"""Seconds without a message after which the embedded broker's topics count as read."""
OPS = Path(__file__).parents[1]


NEVER = (Reason.MASK_ERROR, Reason.ENCODE_ERROR, Reason.TRACKING_ERROR)
"""What no drill's fault brings about."""


class DrillError(RuntimeError):
    """What must hold did not; the text says what."""


class Site:
    """A context manager: broker, one worker (or more), ingestor and witness, all of them running and counted.

    ``faulty``: the worker's detector can misbehave (:meth:`misbehave`). ``rules``: keys of the cameras' policies.
    """

    def __init__(
        self,
        broker: str | Broker,
        *,
        cameras: Sequence[str] = load.CAMERAS,
        fps: float = load.FPS,
        workers: int = 1,
        faulty: bool = False,
        rules: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sfumato-drill-"))
        self.cameras = tuple(cameras)
        self.workers = workers
        self.recoveries: list[float] = []
        self.sound_clocks = True
        """Whether the times that messages carry can be compared with this process's."""
        usual = {"partitions": 2, "detectors": "centerface", "detector_threads": 1}
        self.stack = Stack(broker, self.folder, **{**usual, **settings})
        self.table = load.write(self.folder, cameras, fps)
        self.policies: list[Policy] = [load.policy(camera, **(rules or {})) for camera in cameras]
        self._module = "drills.workers" if faulty else "sfumato.agents.cli"
        self._fault = self.folder / "fault"
        self._fault.write_text("")
        path = os.pathsep.join([str(OPS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {"PYTHONPATH": path, "DRILL_FAULT": str(self._fault), **(environment or {})}
        self.tally = Tally()
        self.lock = threading.Lock()
        """Of the tally and of all else that comes from the topics."""
        self._witnesses: list[Witness] = []
        self._ended = False
        self._sound = False

    def __enter__(self) -> Self:
        sent = load.sent(self.table)
        hidden = 2 * len(sent) - sum(map(marker.shows, (*sent, *load.filmed(sent))))
        if hidden:
            raise DrillError(f"the search misses the marker in {hidden} raw pictures: it could find no leak")
        list(fetch_weights(self.stack.settings))
        self.stack.__enter__()
        try:
            self.stack.publish(*self.policies)
            self.watch(TOPICS, self.tally.take)
            self.start_workers()
            self.start_cameras()
            self.await_flow(time.monotonic(), lambda arrival: True)
        except BaseException:
            self.stack.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for witness in self._witnesses:
                witness.close()
        finally:  # no process may be left behind, whatever interrupts the drill
            self.stack.__exit__(kind, error, trace)
        if self._sound:
            shutil.rmtree(self.folder, ignore_errors=True)  # else its logs are wanted

    def watch(self, topics: Sequence[Topic], take: Callable[[Topic, Message], None]) -> None:
        """Read topics, too, from their beginning to the drill's end; ``take`` is called with :attr:`lock` held."""
        witness = Witness(self.stack.settings, topics, take, self.lock)
        witness.start()
        self._witnesses.append(witness)

    def start_workers(self) -> None:
        arguments = ("--workers", str(self.workers))
        self.stack.start("anonymize", *arguments, module=self._module, environment=self._environment)

    def start_cameras(self) -> None:
        arguments = ("--cameras", str(self.table))
        self.stack.start("ingest", *arguments, metrics_port=0, environment=self._environment)

    def misbehave(self, fault: str) -> None:
        """What the detector does from its next picture on; "": nothing wrong."""
        partial = self._fault.with_name("fault.new")
        partial.write_text(fault)
        partial.rename(self._fault)

    def worker(self, verb: str = "anonymize") -> int:
        """The pid of one of a supervisor's workers, once all have run for so long that their end is no failed start:
        after those the supervisor waits longer and longer."""

        def steady() -> bool:
            ages = [time.time() - psutil.Process(pid).create_time() for pid in self.stack.workers(verb)]
            return len(ages) == (self.workers if verb == "anonymize" else 1) and min(ages) > STEADY

        self.wait(steady, f"not every worker of {verb} started")
        return random.choice(self.stack.workers(verb))

    def kill_worker(self, verb: str = "anonymize") -> None:
        os.kill(self.worker(verb), signal.SIGKILL)

    def now_and_then(self, shortest: float = 0.2, longest: float = 2.5) -> None:
        """A random moment, so that a fault strikes anywhere in a frame's way."""
        time.sleep(random.uniform(shortest, longest))

    @contextlib.contextmanager
    def recovering(self, counts: Callable[[Arrival], bool] = lambda arrival: True) -> Iterator[None]:
        """The fault is over when the block ends; then until every camera's outputs flow again, and how long that took.

        What was published before, and is only seen later, does not count, nor what ``counts`` leaves out.
        """
        yield
        since, clock = time.monotonic(), time.time()

        def new(arrival: Arrival) -> bool:
            return counts(arrival) and (not self.sound_clocks or arrival.published_at.timestamp() >= clock)

        self.recoveries.append(self.await_flow(since, new) - since)

    def await_flow(self, since: float, counts: Callable[[Arrival], bool]) -> float:
        """When every camera had shown a picture that counts; :class:`DrillError` where that takes too long."""
        self.wait(lambda: self._first(since, counts) is not None, "not every camera's outputs flow")
        return self._first(since, counts) or since

    def _first(self, since: float, counts: Callable[[Arrival], bool]) -> float | None:
        with self.lock:
            return self.tally.first(self.cameras, since, counts)

    def wait(self, condition: Callable[[], bool], problem: str, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            for witness in self._witnesses:
                if witness.problem is not None:
                    raise DrillError(f"the witness failed: {witness.problem!r}")
            if time.monotonic() > deadline:
                raise DrillError(f"{problem} within {patience:g} s; logs: {self.folder}")
            time.sleep(0.05)

    def settle(self) -> None:
        """End the cameras and wait until every frame has its outcome, or nothing more comes of it."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(StackError):
            self.stack.stop("ingest")
        with contextlib.suppress(DrillError):
            self.wait(lambda: self.all_read() and self._balanced(), "not every frame has its outcome")
        self._read_on()

    def await_rest(self, complete: Callable[[], bool]) -> None:
        """Until nothing is missing of what comes after the frames' outcomes, or nothing more comes of it."""

        def holds() -> bool:
            with self.lock:
                return complete()

        with contextlib.suppress(DrillError):
            self.wait(holds, "something is missing")
        self._read_on()

    def _read_on(self) -> None:
        time.sleep(1.0)  # what comes now is a duplicate, or a surprise
        with contextlib.suppress(DrillError):
            self.wait(self.all_read, "the topics were not read to their end", QUIET)

    def row(self, **more: Any) -> Row:
        """The counts, when all is over."""
        self.settle()
        with self.lock:
            tally = self.tally
            row = Row(
                lost=tally.lost,
                unaccounted=tally.unaccounted,
                duplicates=tally.duplicates,
                leaked=tally.search.leaked,
                recovery_s=round(max(self.recoveries), 2) if self.recoveries else None,
                faults=len(self.recoveries),
                frames=len(tally.raw),
                searched=tally.search.searched,
                units=tally.search.units,
                unsearchable=tally.search.unsearchable,
                disordered=tally.disordered,
                reasons=dict(sorted(tally.reasons.items())),
                more=more,
                failed=faults_of_ours(tally.reasons),
            )
        self._sound = row.passed
        return row

    def count(self, reason: str) -> int:
        """Frames audited for that reason so far; ``masked`` for those without one."""
        with self.lock:
            return self.tally.reasons[reason]

    def all_read(self) -> bool:
        if isinstance(self.stack.broker, EmbeddedBroker):
            heard = max(witness.heard for witness in self._witnesses)
            return time.monotonic() - heard > QUIET  # it does not tell where a partition ends
        return all(witness.caught_up() for witness in self._witnesses)

    def _balanced(self) -> bool:
        with self.lock:
            return self.tally.balanced


def faults_of_ours(reasons: Mapping[str, int]) -> str | None:
    """Which of :data:`NEVER` came up; None: none."""
    found = {reason.value: count for reason in NEVER if (count := reasons.get(reason, 0))}
    return f"frames ended as {found}" if found else None
