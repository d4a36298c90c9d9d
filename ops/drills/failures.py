"""Drills of what the processes rest on inside: the detector, memory, the clock, the policies."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient
from stack import StackError

from drills import brokers
from drills.plan import Plan
from drills.report import Row
from drills.site import DrillError, Site
from sfumato.agents import provision
from sfumato.schemas.topics import POLICIES

FAIR = 1 / 3
"""How often the camera is shown that is shown least, of how often the one that is shown most, at least."""
DELIVERY = 1.0
"""Seconds from the end of a batch to its publication, at most: it waits for the one before."""
LASTING = 5.0
"""Seconds for which a detector misbehaves."""


def detector(fault: str, reason: str | None, expected_s: float = LASTING) -> Callable[[Plan], Row]:
    """A drill in which the detector does this for a while, and frames are audited for the reason meanwhile."""

    def run(plan: Plan) -> Row:
        with Site(plan.broker(), faulty=True, detector_timeout=10.0) as site:
            for _ in range(min(plan.times, 3)):
                site.now_and_then()
                site.misbehave(fault)
                time.sleep(expected_s)
                if reason is not None:
                    before = site.count(reason)
                    site.wait(lambda n=before: site.count(reason) > n, f"no frame ended as {reason}")
                with site.recovering(lambda arrival: arrival.outcome == "masked"):
                    site.misbehave("")
            return site.row()

    run.__doc__ = f"the detector: {fault}"
    return run


def detector_broken(plan: Plan) -> Row:
    """The detector does nothing but raise, as where a GPU is lost, until the worker is left for a fresh one."""
    with Site(plan.broker(), faulty=True) as site:
        for _ in range(min(plan.times, 3)):
            first = site.worker()
            site.now_and_then()
            site.misbehave("raise")
            site.wait(lambda gone=first: not psutil.pid_exists(gone), "the worker was not left")
            with site.recovering(lambda arrival: arrival.outcome == "masked"):
                site.misbehave("")
        return site.row()


def queues_full(plan: Plan) -> Row:
    """The broker stands still until the ingestor's queue is full, while the worker's pictures that wait exceed their
    memory: dropped and counted, or fully masked."""
    broker = plan.broker()
    small = {"queue_bytes": 1_000_000, "held_bytes": 1_000_000}
    with Site(broker, fps=25.0, rules={"lookahead": 1.0}, **small) as site:
        for _ in range(min(plan.times, 3)):
            site.now_and_then()
            brokers.pause(broker)
            time.sleep(8.0)
            with site.recovering():
                brokers.go_on(broker)
        row = site.row()
        dropped = site.tally.account.report()["dropped"].get("queue_full", 0)
        row.more["queue_full"] = dropped
        if not dropped or not row.reasons.get("too_much_held"):
            raise DrillError(f"no queue was full: {dropped} dropped, {row.reasons}")
        return row


def clock_jump(plan: Plan) -> Row:
    """The clocks of ingestor and worker jump an hour ahead, another one, five back, and then are right again. After
    each jump the worker is killed: one begins with that clock, too."""
    with tempfile.TemporaryDirectory(prefix="sfumato-clock-") as folder:
        clock, library = Path(folder, "ahead"), Path(folder, "clock.so")
        clock.write_text("0")
        _compile(Path(__file__).with_name("clock.c"), library)
        environment = {"LD_PRELOAD": str(library), "DRILL_CLOCK": str(clock)}
        with Site(plan.broker(), environment=environment) as site:
            site.sound_clocks = False
            for seconds in (3600, 7200, -10800, 0):
                site.now_and_then()
                with site.recovering():
                    clock.write_text(str(seconds))
                with site.recovering():
                    site.kill_worker()
            return site.row()


def policy_topic_missing(plan: Plan) -> Row:
    """The topic ``policies`` is deleted under a running worker, which goes on by what it read; no new one starts before
    the topic and the policies are there again."""
    with Site(plan.broker()) as site:
        settings = site.stack.settings
        admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
        for future in admin.delete_topics([settings.topic(POLICIES)]).values():
            future.result()
        site.await_flow(time.monotonic() + 3.0, lambda arrival: True)
        site.stack.stop("anonymize")
        site.start_workers()
        _refuses(site, settings.topic(POLICIES))
        with site.recovering():
            provision.create(settings)
            site.stack.publish(*site.policies)
            site.start_workers()
        return site.row()


def key_store_missing(plan: Plan) -> Row:
    """The folder of the keys that seal raw footage is empty, as a volume that is not mounted, and a worker begins
    without it: frames wait, and none is dropped for a key that only seems missing."""
    with Site(plan.broker()) as site:
        keys = site.stack.settings.state_dir / "keys"
        away = keys.with_name("away")
        for _ in range(min(plan.times, 3)):
            site.now_and_then()
            keys.rename(away)
            keys.mkdir(mode=0o700)
            site.kill_worker()
            time.sleep(LASTING)
            with site.recovering():
                keys.rmdir()  # nobody has made keys in it
                away.rename(keys)
        row = site.row()
        if dropped := row.reasons.get("key_missing"):
            row.failed = f"{dropped} frames were dropped for want of a key"
        return row


def overload(plan: Plan) -> Row:
    """Three times what the worker can look at, for cameras whose policy skips what is late: what is shown is not older
    than the rule says, every skipped frame is audited, and no camera starves."""
    max_age, seconds = 2.0, 25.0
    cameras = [f"camera-{number}" for number in range(6)]  # of four and of two in a partition
    rules = {"overload": {"rule": "skip", "max_age": max_age}, "lookahead": 0.0}
    with Site(plan.broker(), cameras=cameras, fps=10.0, faulty=True, rules=rules) as site:
        site.misbehave("steady")  # 20 pictures a second, and 60 come
        time.sleep(seconds)
        site.misbehave("")
        row = site.row()
        arrivals = site.tally.arrivals
        shown = {camera: sum(a.frame.camera == camera for a in arrivals) for camera in cameras}
        row.more["oldest_s"] = round(max(a.age for a in arrivals), 2)
        # What its batch took is the machine's: it comes on top, as docs/policies.md says.
        row.more["oldest_when_looked_at_s"] = round(max(a.age - site.tally.took[a.frame] for a in arrivals), 2)
        row.more["fewest_of_most"] = round(min(shown.values()) / max(shown.values()), 2)
        row.more["skipped"] = row.reasons.get("late", 0)
        if not row.more["skipped"]:
            raise DrillError("nothing was skipped: there was no overload")
        if row.more["oldest_when_looked_at_s"] > max_age + DELIVERY:
            row.failed = f"a picture was {row.more['oldest_when_looked_at_s']} s old"
        if row.more["fewest_of_most"] < FAIR:
            row.failed = f"a camera starved: {shown}"
        return row


def _compile(source: Path, library: Path) -> None:
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DrillError(f"{source.name} cannot be compiled ({error}). Debian: apt-get install gcc libc6-dev") from None


def _refuses(site: Site, named: str) -> None:
    """The anonymizer ends by itself, with status 1 and a line that names what is missing."""
    try:
        site.stack.wait_until_ended("anonymize", 60.0)
    except StackError as error:
        raise DrillError(str(error)) from None
    if named not in site.stack.tail("anonymize"):
        raise DrillError(f"the anonymizer does not say what is missing:\n{site.stack.tail('anonymize')}")
