"""Keep a number of worker processes running: what ends is started again, with growing pauses.

A worker that ends with EX_CONFIG (78) asks for a person, not for a restart: the supervisor then ends too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from sfumato.agents.exits import EXIT_CONFIGURATION, EXIT_RESTART

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY = 5.0
"""A worker that ran this long, in seconds, is restarted without an added pause: it did not fail at its start, which
takes some 3 s. Where another was killed, the group gives it no partitions for 6 s."""
GRACE = 15.0
"""Seconds a worker has to end after SIGTERM before it is killed."""


class Worker(threading.Thread):
    """One worker process and its restarts; ends when told to or when a restart is of no use."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], stopping: threading.Event) -> None:
        super().__init__(name="supervised", daemon=True)
        self.status = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._stopping = stopping

    def run(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._stopping.is_set():
            started = time.monotonic()
            self.status = self._run_once()
            if self._stopping.is_set():
                return
            if self.status == EXIT_CONFIGURATION:
                log.critical("worker cannot run with these settings; stopping")
                self._stopping.set()
                return
            pause = next_pause(pause, time.monotonic() - started)
            wait = pause * random.uniform(0.5, 1.0)
            log.warning("worker ended with status %d; next start in %.1f s", self.status, wait)
            self._stopping.wait(wait)

    def _run_once(self) -> int:
        try:
            process = subprocess.Popen(self._command, env=self._environment, preexec_fn=_die_with_parent)
        except (OSError, subprocess.SubprocessError) as error:  # no memory, no process or no file left, for now
            log.error("worker cannot be started: %s", error)
            return EXIT_RESTART
        log.info("worker started, pid %d", process.pid)
        while True:
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                if self._stopping.is_set():
                    return _end(process)


def next_pause(pause: float, lived: float) -> float:
    """Seconds before the next start, from those before the last one and how long the worker lived then."""
    return SHORTEST_PAUSE if lived > STEADY else min(pause * 2, LONGEST_PAUSE)


def supervise(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run one worker per environment until SIGTERM or SIGINT; returns the exit status for the caller."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    workers = [Worker(command, environment, stopping) for environment in environments]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():  # a bare join would not let the signal handler run
            worker.join(0.2)
    return EXIT_CONFIGURATION if any(worker.status == EXIT_CONFIGURATION for worker in workers) else 0


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()  # nothing is lost: what was not acknowledged is replayed
        return process.wait()


def _die_with_parent() -> None:
    """On Linux, end the worker when its supervisor is killed (prctl PR_SET_PDEATHSIG)."""
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
