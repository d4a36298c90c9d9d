"""``sfumato reveal``: the worker that makes the clips of approved subject requests."""

from __future__ import annotations

import signal
import threading
from contextlib import closing

import click

from sfumato.agents.settings import load


@click.command()
def reveal() -> None:
    """Make the clips of approved subject requests (docs/subject-requests.md), until Ctrl-C or SIGTERM."""
    from sfumato.agents import metrics, provision
    from sfumato.agents.database import Database
    from sfumato.agents.files.blobs import Blobs
    from sfumato.agents.files.sealing import MasterKeys
    from sfumato.agents.files.uploads import SWEEP, Uploads
    from sfumato.agents.footage.reveal import CLIENT
    from sfumato.agents.policies import PolicyStore
    from sfumato.agents.policy_files import read_floor
    from sfumato.agents.subjects.clerk import Clerk, sweep_regularly
    from sfumato.agents.subjects.disclosures import Disclosures
    from sfumato.agents.subjects.requests import Requests
    from sfumato.agents.suspensions import SuspensionStore
    from sfumato.models import detectors
    from sfumato.models.ensemble import Ensemble
    from sfumato.schemas.topics import DISCLOSURES, FRAMES_RAW, POLICIES, SUSPENSIONS

    settings = load().revealing()
    provision.check(settings, (FRAMES_RAW, DISCLOSURES, POLICIES, SUSPENSIONS))
    database = Database(settings)
    database.migrate()
    uploads = Uploads(settings, database, Blobs(settings), MasterKeys(settings))
    options = settings.detector_options()
    ensemble = Ensemble([detectors.make(name, options) for name in settings.detector_names()])
    policies, suspensions = PolicyStore(settings, read_floor(settings)), SuspensionStore(settings)
    metrics.serve(settings)
    with closing(database), closing(policies), closing(suspensions), closing(Disclosures(settings, CLIENT)) as told:
        policies.start()
        suspensions.start()
        requests = Requests(settings, database, uploads, told)
        clerk = Clerk(settings, requests, uploads, ensemble, suspensions.over(policies.get))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: clerk.stopping.set())
        threading.Thread(target=sweep_regularly, args=(uploads, clerk.stopping, SWEEP), daemon=True).start()
        click.echo("waiting for approved subject requests", err=True)
        clerk.run()
