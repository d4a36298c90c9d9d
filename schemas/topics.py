"""The Kafka topics, in the order a frame meets them: name, key, partitions, retention.

No compression for pictures: they are compressed already.
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Largest message on a frame topic, in bytes, headers included."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic's contract. ``partitions`` None: the number set for frames. ``retention_ms`` None: compacted,
    the newest message of each key is kept for ever. ``roll_ms``: of a compacted topic that is written all the time:
    what is older can be compacted."""

    name: str
    key: str
    value: str
    partitions: int | None
    retention_ms: int | None
    compression: str
    max_message_bytes: int
    roll_ms: int | None = None

    def config(self) -> dict[str, str]:
        """The topic's configuration in Kafka's own names."""
        config = {
            "compression.type": self.compression,
            "max.message.bytes": str(self.max_message_bytes),
            # The broker's clock decides how long a message is kept: one whose clock is wrong would have its frames
            # deleted unread, kept for too long, or refused (Kafka takes none from more than an hour ahead).
            "message.timestamp.type": "LogAppendTime",
        }
        if self.retention_ms is None:
            rolled = {"segment.ms": str(self.roll_ms)} if self.roll_ms else {}
            return {**config, "cleanup.policy": "compact", **rolled}
        # A segment is deleted whole, so it must roll well inside the retention.
        segment_ms = min(self.retention_ms // 4, DAY)
        return {
            **config,
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_ms),
            "segment.ms": str(segment_ms),
        }


FRAMES_RAW = Topic(
    "frames.raw", "camera", "encoded picture or access unit", None, 10 * MINUTE, "uncompressed", MAX_MESSAGE_BYTES
)
EPOCHS = Topic("epochs", "camera", "JSON", 1, 90 * DAY, "producer", 1024 * 1024)
POLICIES = Topic("policies", "camera or pattern; camera@version", "JSON", 1, None, "producer", 1024 * 1024)
FRAMES_ANONYMIZED = Topic(
    "frames.anonymized", "camera", "JPEG or H.264 access unit", None, DAY, "uncompressed", MAX_MESSAGE_BYTES
)
AUDIT = Topic("audit", "camera", "JSON", None, 90 * DAY, "producer", 1024 * 1024)
FINDS = Topic("finds", "camera", "JSON", 1, 90 * DAY, "producer", 1024 * 1024)
SUSPENSIONS = Topic("suspensions", "camera/milliseconds", "JSON", 1, None, "producer", 1024 * 1024)
CALLS = Topic("calls", "caller", "JSON", 1, 90 * DAY, "producer", 1024 * 1024)
JOBS = Topic("jobs", "job", "JSON", None, DAY, "producer", 1024 * 1024)
JOB_EVENTS = Topic("job.events", "job", "JSON", 1, 90 * DAY, "producer", 1024 * 1024)
DISCLOSURES = Topic("disclosures", "request", "JSON", 1, 400 * DAY, "producer", 1024 * 1024)
LEDGER = Topic("ledger", "log", "signed checkpoint", 1, 400 * DAY, "producer", 1024 * 1024)
LEDGER_HEADS = Topic("ledger.heads", "log", "signed JSON", 1, None, "producer", 1024 * 1024, roll_ms=10 * MINUTE)

TOPICS = (
    FRAMES_RAW,
    EPOCHS,
    POLICIES,
    FRAMES_ANONYMIZED,
    AUDIT,
    FINDS,
    SUSPENSIONS,
    CALLS,
    JOBS,
    JOB_EVENTS,
    DISCLOSURES,
    LEDGER,
    LEDGER_HEADS,
)
