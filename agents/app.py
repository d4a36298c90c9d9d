"""The Faust apps and their agents: ``faust -A sfumato.agents.app worker`` or ``sfumato anonymize``; and for the second
look ``faust -A sfumato.agents.app:inspector worker`` or ``sfumato inspect``; for jobs ``…:archivist`` or ``sfumato
archive``; for the ledger ``…:keeper`` or ``sfumato ledger``.

The values below were measured against message loss and latency; see docs/decisions/0004-offsets.md.
"""

from __future__ import annotations

import tempfile

import faust

from sfumato.agents import anonymize, inspect, transport
from sfumato.agents.connection import faust_credentials
from sfumato.agents.settings import Settings, load
from sfumato.schemas.topics import AUDIT, DISCLOSURES, FRAMES_ANONYMIZED, FRAMES_RAW, JOBS

BUFFERED_EVENTS = 64
"""Frames read ahead of the agent. Faust's default, 4,096, would be 400 MB of pictures."""
BUFFERED_RECORDS = 4096
"""Audit events, likewise: some 5 MB."""


def make_app(settings: Settings, buffered: int = BUFFERED_EVENTS) -> faust.App:
    servers = ";".join(f"kafka://{server.strip()}" for server in settings.bootstrap_servers.split(","))
    return faust.App(
        settings.group_id,
        broker=servers,
        broker_credentials=faust_credentials(settings),
        datadir=tempfile.gettempdir(),  # no tables, so nothing is written there
        value_serializer="raw",
        key_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        ConsumerScheduler=transport.OldestFirst,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 1024 * 1024,
        stream_buffer_maxsize=buffered,
        stream_wait_empty=False,  # what a rebalance interrupts is replayed by the partition's next owner
        broker_commit_interval=0.5,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        broker_rebalance_timeout=6.0,
        worker_redirect_stdouts=False,
    )


transport.mend()
settings = load()
app = make_app(settings)
frames_raw = app.topic(settings.topic(FRAMES_RAW), value_type=bytes, key_type=bytes)


@app.agent(frames_raw, name="anonymize", concurrency=1)
async def anonymize_frames(stream: faust.Stream[bytes]) -> None:
    await anonymize.run(app, stream, settings)


inspector = make_app(settings.inspecting())
frames_anonymized = inspector.topic(settings.topic(FRAMES_ANONYMIZED), value_type=bytes, key_type=bytes)


@inspector.agent(frames_anonymized, name="inspect", concurrency=1)
async def inspect_frames(stream: faust.Stream[bytes]) -> None:
    await inspect.run(inspector, stream, settings.inspecting())


archivist = make_app(settings.archiving())
jobs = archivist.topic(settings.topic(JOBS), value_type=bytes, key_type=bytes)


@archivist.agent(jobs, name="archive", concurrency=1)
async def mask_files(stream: faust.Stream[bytes]) -> None:
    from sfumato.agents import archive  # with the database and HTTP clients that the other workers do without

    await archive.run(archivist, stream, settings.archiving())


keeper = make_app(settings.keeping(), BUFFERED_RECORDS)
audited = keeper.topic(settings.topic(AUDIT), settings.topic(DISCLOSURES), value_type=bytes, key_type=bytes)


@keeper.agent(audited, name="ledger", concurrency=1)
async def seal_events(stream: faust.Stream[bytes]) -> None:
    from sfumato.agents.ledger import seal

    await seal.run(keeper, stream, settings.keeping())
