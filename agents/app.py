"""The Faust app and its agents: ``faust -A sfumato.agents.app worker`` or ``sfumato anonymize``.

The values below were measured against message loss and latency; see docs/decisions/0004-offsets.md.
"""

from __future__ import annotations

import tempfile
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from sfumato.agents import anonymize
from sfumato.agents.settings import Settings, load
from sfumato.schemas.topics import FRAMES_RAW

FETCH_MAX_WAIT_MS = 20
"""Longest wait of the broker for a fetch to fill. Faust hard-codes 1,500: half a second of latency."""
BUFFERED_EVENTS = 64
"""Frames read ahead of the agent. Faust's default, 4,096, would be 400 MB of pictures."""


def make_app(settings: Settings) -> faust.App:
    servers = ";".join(f"kafka://{server.strip()}" for server in settings.bootstrap_servers.split(","))
    return faust.App(
        settings.group_id,
        broker=servers,
        datadir=tempfile.gettempdir(),  # no tables, so nothing is written there
        value_serializer="raw",
        key_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 1024 * 1024,
        stream_buffer_maxsize=BUFFERED_EVENTS,
        stream_wait_empty=False,  # what a rebalance interrupts is replayed by the partition's next owner
        broker_commit_interval=0.5,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        broker_rebalance_timeout=6.0,
        worker_redirect_stdouts=False,
    )


def _fetch_promptly() -> None:
    """Set the fetch wait that Faust offers no setting for."""
    create = AIOKafkaConsumerThread._create_worker_consumer

    def create_prompt_consumer(self: AIOKafkaConsumerThread, transport: Any) -> Any:
        consumer = create(self, transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    AIOKafkaConsumerThread._create_worker_consumer = create_prompt_consumer


_fetch_promptly()
settings = load()
app = make_app(settings)
frames_raw = app.topic(settings.topic(FRAMES_RAW), value_type=bytes, key_type=bytes)


@app.agent(frames_raw, name="anonymize", concurrency=1)
async def anonymize_frames(stream: faust.Stream[bytes]) -> None:
    await anonymize.run(app, stream, settings)
