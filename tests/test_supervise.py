"""The supervisor and the watchdog's judgement."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sfumato.agents import supervise
from sfumato.agents.supervise import EXIT_CONFIGURATION, SHORTEST_PAUSE, Worker, next_pause
from sfumato.agents.watch import Stall


def run_worker(tmp_path, program: str, until_lines: int | None = None) -> tuple[Worker, list[str]]:
    """Run a worker whose program writes a line to a FIFO at each start."""
    fifo = tmp_path / "starts"
    os.mkfifo(fifo)
    stopping = threading.Event()
    code = f"import os, sys, signal\nopen({str(fifo)!r}, 'w').write(str(os.getpid()) + '\\n')\n{program}"
    worker = Worker([sys.executable, "-c", code], os.environ, stopping)
    worker.start()
    lines: list[str] = []
    while until_lines is None or len(lines) < until_lines:
        with fifo.open() as reader:
            lines += reader.read().split()
        if until_lines is None:
            break
    if until_lines is not None:
        stopping.set()
    worker.join(60)
    assert not worker.is_alive()
    return worker, lines


def test_a_killed_worker_is_started_again(tmp_path):
    worker, starts = run_worker(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", until_lines=3)
    assert len(set(starts)) == 3
    assert worker.status == -signal.SIGKILL


@pytest.mark.parametrize("failing", ["process", "preparation"])
def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch, failing):
    """For want of memory, processes or files: it may be there a moment later."""
    program, ready = tmp_path / "worker", supervise._die_with_parent
    monkeypatch.setattr(supervise, "LONGEST_PAUSE", 0.01)
    if failing == "preparation":
        _write(program)
        monkeypatch.setattr(supervise, "_die_with_parent", lambda: 1 / 0)
    told = []

    def mend(_: logging.LogRecord) -> bool:
        told.append(_)
        if len(told) == 1:
            _write(program)
            monkeypatch.setattr(supervise, "_die_with_parent", ready)
        return True

    supervise.log.addFilter(mend)
    try:
        worker = Worker([str(program)], os.environ, threading.Event())
        worker.start()
        worker.join(60)
    finally:
        supervise.log.removeFilter(mend)
    assert told[0].getMessage().startswith("worker cannot be started")
    assert worker.status == EXIT_CONFIGURATION, "it ran in the end"


def _write(program: Path) -> None:
    program.write_text(f"#!/bin/sh\nexit {EXIT_CONFIGURATION}\n")
    program.chmod(0o700)


def test_only_what_fails_at_its_start_waits_longer_and_longer():
    pauses = [SHORTEST_PAUSE]
    for lived in (3.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 6.0):
        pauses.append(next_pause(pauses[-1], lived))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.5]


def test_a_configuration_error_is_not_retried(tmp_path):
    worker, starts = run_worker(tmp_path, f"sys.exit({EXIT_CONFIGURATION})")
    assert len(starts) == 1
    assert worker.status == EXIT_CONFIGURATION


def test_workers_end_with_their_supervisor(tmp_path):
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    child = f"import os, signal; open({str(fifo)!r}, 'w').write(str(os.getpid())); signal.pause()"
    parent = f"""
import os, sys, threading
from sfumato.agents.supervise import supervise
supervise([sys.executable, "-c", {child!r}], [dict(os.environ)])
"""
    supervisor = subprocess.Popen([sys.executable, "-c", parent])
    worker = os.pidfd_open(int(fifo.read_text()))
    supervisor.kill()
    supervisor.wait()
    ready, _, _ = select.select([worker], [], [], 30)
    assert ready, "the worker outlived its supervisor"


def test_a_stall_is_lag_without_progress_for_the_timeout():
    stall = Stall(10)
    assert not stall.seen({0: 5}, 3, now=0)
    assert not stall.seen({0: 5}, 3, now=9)
    assert not stall.seen({0: 6}, 3, now=11)  # progress
    assert not stall.seen({0: 6}, 0, now=30)  # nothing to do
    assert not stall.seen({0: 6}, 4, now=39)  # work again, since 30
    assert stall.seen({0: 6}, 4, now=40)
    stall.reset()
    assert not stall.seen({0: 6}, 4, now=90)
