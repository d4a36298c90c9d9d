"""Drills of the ledger: killed, and without its signing key."""

from __future__ import annotations

import time
from typing import Any

from drills.plan import Plan
from drills.report import Row
from drills.site import DrillError, Site
from sfumato.agents.exits import EXIT_CONFIGURATION
from sfumato.agents.ledger import keys


def kill_ledger(plan: Plan) -> Row:
    """kill -9 of the ledger's worker at random moments; its supervisor starts another. In the end every audit event is
    sealed, and no log is forked; what is not sealed is lost."""
    with Site(plan.broker()) as site:
        _start(site)
        _await_seals(site, time.time())
        for _ in range(plan.times):
            site.now_and_then()
            site.kill_worker("ledger")
            _recover(site)
        return _row(site)


def signing_key_missing(plan: Plan) -> Row:
    """The file with the ledger's key is gone: it does not start, cameras are masked as before. With a key it seals all
    that it missed."""
    with Site(plan.broker()) as site:
        site.stack.start("ledger", ledger_key_file=site.folder / "gone.pem", metrics_port=0)
        site.stack.wait_until_ended("ledger", 60.0)
        if (status := site.stack.stop("ledger")) != EXIT_CONFIGURATION:
            raise DrillError(f"the ledger ended with status {status} without its key")
        site.await_flow(time.monotonic(), lambda arrival: True)
        _start(site)
        _recover(site)
        return _row(site)


def _start(site: Site) -> None:
    site.stack.start("ledger", ledger_segment_seconds=1.0, metrics_port=0)


def _recover(site: Site) -> None:
    since, moment = time.monotonic(), time.time()
    _await_seals(site, moment)
    site.recoveries.append(time.monotonic() - since)


def _await_seals(site: Site, moment: float) -> None:
    def sealed() -> bool:
        with site.lock:
            return site.tally.seals.sealed_since(moment) >= set(site.cameras)

    site.wait(sealed, "not every camera's log goes on")


def _row(site: Site, **more: Any) -> Row:
    site.settle()
    site.stack.stop("ledger")  # seals what is open
    site.wait(site.all_read, "the checkpoints were not read to their end")
    with site.lock:
        seals = site.tally.seals
        unsealed, wrong = seals.verdict(keys.load(site.stack.settings).signer.verifier)
        segments = len(seals.came)
    row = site.row(segments=segments, unsealed=unsealed, **more)
    row.lost += unsealed
    if wrong:
        row.failed = f"{wrong} checkpoints are not of their log"
    return row
