"""Drills of sfumato's own processes: killed, ended, frozen, joining and leaving, standing still."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial

from drills import load
from drills.counting import Arrival
from drills.plan import Plan
from drills.report import Row
from drills.site import DrillError, Site
from drills.viewer import Viewer
from sfumato.agents.broker import free_port

FROZEN = 30.0
"""Seconds for which a process is stopped."""


def kill_worker(plan: Plan) -> Row:
    """kill -9 of the worker at random moments; its supervisor starts another."""
    with Site(plan.broker()) as site:
        for _ in range(plan.times):
            site.worker()
            site.now_and_then()
            with site.recovering():
                site.kill_worker()
        return site.row()


def kill_ingestor(plan: Plan) -> Row:
    """kill -9 of the ingestor, started again at once; only its new epochs count as flowing."""
    with Site(plan.broker()) as site:
        for _ in range(plan.times):
            site.now_and_then()
            with site.recovering(_of_an_epoch_from_now_on()):
                site.stack.kill("ingest")
                site.start_cameras()
        return site.row()


def kill_bridge(plan: Plan) -> Row:
    """kill -9 of the bridge, started again at once; its viewers are shown pictures again, none with the marker."""
    with Site(plan.broker()) as site:
        key = site.stack.key
        site.stack.start("bridge")
        site.stack.wait_for_bridge()
        with Viewer(site.stack.bridge_url, key, site.cameras) as viewer:
            viewer.await_pictures(time.monotonic())
            for _ in range(plan.times):
                site.now_and_then()
                site.stack.kill("bridge")
                site.stack.start("bridge")
                since = time.monotonic()
                site.recoveries.append(viewer.await_pictures(since) - since)
            row = site.row(viewer_pictures=viewer.pictures)
        row.leaked += viewer.leaked
        row.searched += viewer.pictures
        return row


def terminate(plan: Plan) -> Row:
    """SIGTERM to anonymizer, ingestor and bridge in turn: each ends with status 0, and is started again."""
    with Site(plan.broker()) as site:
        site.stack.start("bridge")
        site.stack.wait_for_bridge()
        for number in range(plan.times):
            site.now_and_then()
            verb = ("anonymize", "ingest", "bridge")[number % 3]
            with site.recovering(_of_an_epoch_from_now_on() if verb == "ingest" else lambda arrival: True):
                status = site.stack.stop(verb)
                start = {"anonymize": site.start_workers, "ingest": site.start_cameras}
                start.get(verb, partial(site.stack.start, verb))()
            if status:
                raise DrillError(f"{verb} ended with status {status} after SIGTERM:\n{site.stack.tail(verb)}")
        return site.row()


def zombie(plan: Plan) -> Row:
    """SIGSTOP of one of two workers for 30 s: the other takes over, and what the first sends when it goes on was sent
    before. The recovery is the takeover."""
    with Site(plan.broker(), workers=2) as site:
        for _ in range(min(plan.times, 3)):
            site.now_and_then()
            stopped = site.worker()
            with site.recovering():
                os.kill(stopped, signal.SIGSTOP)
            time.sleep(max(0.0, FROZEN - site.recoveries[-1]))
            os.kill(stopped, signal.SIGCONT)
            site.await_flow(time.monotonic(), lambda arrival: True)
            time.sleep(8.0)  # it leaves, or joins again: what it still holds comes now
        return site.row()


def rebalance_storm(plan: Plan) -> Row:
    """A second anonymizer joins and leaves, ended or killed, without a pause."""
    with Site(plan.broker()) as site:
        for number in range(plan.times):
            port = free_port()
            site.stack.start("anonymize", name="another", metrics_port=port)
            site.wait(lambda port=port: site.stack.metric("sfumato_assigned_partitions", port) > 0, "it did not join")
            site.now_and_then(0.0, 2.0)
            with site.recovering():
                if number % 2:
                    _kill_with_workers(site, "another")
                else:
                    site.stack.stop("another")
        return site.row()


def kill_while_held(plan: Plan) -> Row:
    """kill -9 of the worker whenever it holds two seconds of every camera's frames back (``lookahead``)."""
    with Site(plan.broker(), rules={"lookahead": 2.0}) as site:
        enough = len(site.cameras) * load.FPS
        for _ in range(plan.times):
            site.wait(lambda: site.stack.metric("sfumato_held_events") >= enough, "no frames are held")
            site.now_and_then(0.0, 1.0)
            with site.recovering():
                site.kill_worker()
        return site.row()


def wedge(plan: Plan) -> Row:
    """The worker computes, but delivers nothing and commits nothing: the watchdog ends it. The recovery counts from the
    moment at which the worker ended, the detection is ``stalled_s``."""
    with Site(plan.broker(), faulty=True, stall_timeout=10.0, camera_idle=5.0, gop_hold=5.0) as site:
        stalls = []
        for _ in range(min(plan.times, 3)):
            site.now_and_then()
            stuck, began = site.worker(), time.monotonic()
            site.misbehave("wedge")
            with site.recovering():
                site.wait(lambda pid=stuck: not _alive(pid), "the watchdog did not end the worker")
                site.misbehave("")
                stalls.append(round(time.monotonic() - began, 1))
        if "nothing was committed" not in site.stack.log("anonymize").read_text():
            raise DrillError("the worker was not ended by its watchdog")
        return site.row(stalled_s=max(stalls))


def _of_an_epoch_from_now_on() -> Callable[[Arrival], bool]:
    """What a new ingestor read."""
    begun = int(time.time() * 1000)
    return lambda arrival: arrival.frame.epoch >= begun


def _kill_with_workers(site: Site, verb: str) -> None:
    """kill -9 of all of it at once: a supervisor alone would end its workers in good order."""
    workers = site.stack.workers(verb)
    site.stack.kill(verb)
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
