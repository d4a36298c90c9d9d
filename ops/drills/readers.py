"""Drills of what reads the anonymized frames: the copies for vendors, the second look."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

from confluent_kafka import Message

from drills import load
from drills.copies import Copies
from drills.plan import Plan
from drills.planting import Planting
from drills.report import Row
from drills.site import PATIENCE, DrillError, Site
from sfumato.agents import provision
from sfumato.agents.shares import Vendor
from sfumato.schemas.find import Find
from sfumato.schemas.topics import FINDS, FRAMES_ANONYMIZED, Topic

BACKLOG = 5.0
"""Seconds for which nothing is copied before a kill amid many copies."""
VENDOR = Vendor(name="drill", cameras=("north", load.VIDEO))
"""Gets a camera with JPEG and one with H.264, and one of them not."""


def kill_share(plan: Plan) -> Row:
    """kill -9 of the process that copies a vendor's cameras, started again at once; the vendor gets every message of
    its cameras in order, and none of another."""
    with Site(plan.broker()) as site:
        provision.create(site.stack.settings, (VENDOR.topic,))
        table = site.folder / "shares.toml"
        table.write_text(f'[[vendor]]\nname = "{VENDOR.name}"\ncameras = {list(VENDOR.cameras)}\n')
        copies, came = Copies(VENDOR.cameras), threading.Event()

        def take(topic: Topic, message: Message) -> None:
            copies.take(topic, message)
            if topic is not FRAMES_ANONYMIZED:
                came.set()

        site.watch((FRAMES_ANONYMIZED, VENDOR.topic), take)

        def launch() -> None:
            site.stack.start("share", "--shares", str(table), metrics_port=0)

        def start() -> float:
            launch()
            since = time.time()

            def flows() -> bool:
                with site.lock:
                    return all(copies.newest.get(camera, 0.0) >= since for camera in VENDOR.cameras)

            site.wait(flows, "not every camera's copies flow")
            return time.time() - since

        start()
        for number in range(plan.times):
            site.now_and_then()
            site.stack.kill("share")
            if number % 2:  # and again amid the copies of what has queued up, which are not acknowledged yet
                time.sleep(BACKLOG)
                came.clear()
                launch()
                if not came.wait(PATIENCE):
                    raise DrillError("no copy came")
                site.stack.kill("share")
            site.recoveries.append(start())
        site.settle()
        site.await_rest(lambda: not copies.lost)
        row = site.row(copies=sum(map(len, copies.copies.values())))
        row.lost += copies.lost
        row.duplicates += copies.duplicates
        row.disordered += copies.disordered
        if copies.foreign:
            row.failed = f"{copies.foreign} messages are not the vendor's"
        return row


def kill_inspector(plan: Plan) -> Row:
    """kill -9 of the worker of the second look while it looks at pictures in which a face was left open: each is found
    out, and a find that comes again has the identity that it had."""
    none = {"inspect": {"per_minute": 0.0}}
    with Site(plan.broker(), rules=none) as site, Planting(site.stack) as planting:
        site.tally.planted = frozenset({planting.camera})
        finds: Counter[str] = Counter()
        found: dict[str, float] = {}

        def take(topic: Topic, message: Message) -> None:
            find = Find.from_message(message.key(), message.value())
            finds[find.id] += 1
            found.setdefault(str(find.frame), find.found_at.timestamp())

        site.watch((FINDS,), take)
        # Each message is looked at (its policy says so) unless that would take more than all of the worker's time.
        site.stack.start("inspect", metrics_port=0, inspect_budget=1.0)

        def recover() -> None:
            since, clock = time.monotonic(), time.time()

            def looks() -> bool:
                with site.lock:
                    return any(at >= clock for at in found.values())

            site.wait(looks, "nothing is found")
            site.recoveries.append(time.monotonic() - since)

        recover()
        site.recoveries.clear()
        for _ in range(plan.times):
            site.worker("inspect")
            site.now_and_then()
            os.kill(site.worker("inspect"), signal.SIGKILL)
            recover()
        sent = planting.stop()
        site.settle()

        site.await_rest(lambda: found.keys() >= sent)
        row = site.row(planted=len(sent), finds=len(finds))
        row.lost += len(sent - found.keys())
        row.duplicates += finds.total() - len(finds)
        if strange := found.keys() - sent:
            row.failed = f"finds in pictures that were not planted: {len(strange)}"
        return row
