"""Every Prometheus metric, by process, and the exporter. Units are base units (seconds, bytes)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from sfumato.agents.settings import Settings
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.segment import Segment

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# ingest
INGESTED = Counter("sfumato_ingested_frames", "Frames handed to the broker.", ["camera"])
INGESTED_BYTES = Counter("sfumato_ingested_bytes", "Bytes of frames handed to the broker.", ["camera"])
INGEST_DROPPED = Counter("sfumato_ingest_dropped_frames", "Frames dropped before Kafka.", ["camera", "reason"])
SKIPPED = Counter("sfumato_skipped_frames", "Frames left out by the camera's fps cap.", ["camera"])
TRANSCODED = Counter("sfumato_transcoded_frames", "Frames decoded by the ingestor and sent as JPEG.", ["camera"])
RECONNECTS = Counter("sfumato_reconnects", "Times a camera was opened again.", ["camera"])
OUTSTANDING = Gauge("sfumato_outstanding_bytes", "Bytes of frames that the broker has not acknowledged.")

# ingest, anonymize
RAW_RETENTION_MISMATCH = Gauge(
    "sfumato_raw_retention_mismatch", "1: at this process's start, frames.raw was kept for another time than set."
)

# anonymize
RETENTION_EXCEEDED = Gauge(
    "sfumato_policies_retention_exceeded", "Policies in force that state fewer hours than frames.anonymized is kept."
)
FRAMES = Counter("sfumato_frames", "Frames by camera and outcome.", ["camera", "outcome"])
REFUSED = Counter("sfumato_frames_refused", "Frames fully masked or dropped, by reason.", ["outcome", "reason"])
STAGE = Histogram("sfumato_stage_seconds", "Time per frame and stage.", ["stage"], buckets=SECONDS)
DELAY = Histogram("sfumato_capture_to_audit_seconds", "From capture to the audit event.", buckets=SECONDS)
BATCH_SIZE = Histogram("sfumato_batch_frames", "Frames per detector batch.", buckets=(1, 2, 4, 8, 16, 32, 64))
ASSIGNED = Gauge("sfumato_assigned_partitions", "Partitions of frames.raw assigned to this worker.")
LAG = Gauge("sfumato_consumer_lag_frames", "Frames that wait in this worker's partitions.")
HELD = Gauge("sfumato_held_events", "Events read and not acknowledged: in work, or of a group of pictures not over.")

# inspect
INSPECTED = Counter("sfumato_inspected_frames", "Published frames looked at a second time.", ["camera"])
INSPECT_SKIPPED = Counter("sfumato_inspect_skipped_frames", "Published frames not looked at, by reason.", ["reason"])
FINDS = Counter("sfumato_finds", "What a second look saw unmasked.", ["camera", "target"])
SUSPENSIONS = Counter("sfumato_suspensions", "Times a camera's leak budget was spent.", ["camera"])
INSPECT_STAGE = Histogram("sfumato_inspect_seconds", "Time per frame looked at, decoding included.", buckets=SECONDS)
INSPECT_ASSIGNED = Gauge("sfumato_inspect_assigned_partitions", "Partitions of frames.anonymized of this worker.")
INSPECT_LAG = Gauge("sfumato_inspect_lag_frames", "Published frames that wait in this worker's partitions.")
CAMERA_SUSPENDED = Gauge("sfumato_camera_suspended", "1: fully masked until a person lifts it.", ["camera"])

# ledger
LEDGER_EVENTS = Counter("sfumato_ledger_events", "Audit events and disclosures sealed.", ["log"])
LEDGER_SEGMENTS = Counter("sfumato_ledger_segments", "Segments sealed.", ["log"])
LEDGER_REPEATED = Counter("sfumato_ledger_repeated_events", "Events of a frame that has one already.", ["log", "kind"])
LEDGER_INVALID = Counter("sfumato_ledger_invalid_events", "Leaves that are no valid audit event.", ["log"])
LEDGER_MISSING = Counter("sfumato_ledger_missing_frames", "Frames without an audit event, once overdue.", ["camera"])
LEDGER_FOUND_LATE = Counter("sfumato_ledger_found_late_frames", "Of the missing, those audited after all.", ["camera"])
LEDGER_FRAMES = Gauge(
    "sfumato_ledger_frames",
    "Frames of the epochs that are remembered: ingested = masked + fully_masked + dropped + unaccounted.",
    ["camera", "state"],
)
LEDGER_UNSEALED = Gauge("sfumato_ledger_unsealed_seconds", "Age of the oldest event that is not sealed.", ["log"])
LEDGER_BEHIND = Gauge(
    "sfumato_ledger_behind_events",
    "Events of the log that are read and not sealed, and all that are not read of its partition.",
    ["log"],
)
LEDGER_BEHIND_SECONDS = Gauge(
    "sfumato_ledger_behind_seconds", "How long ago the broker took the oldest of these; 0: there are none.", ["log"]
)
LEDGER_STOPPED = Gauge("sfumato_ledger_stopped", "1: the log would fork; nothing of it is signed any more.", ["log"])
LEDGER_LEFT_OUT = Counter("sfumato_ledger_left_out_events", "Events of logs that are stopped.", ["log"])
LEDGER_REFUSED_HEADS = Counter("sfumato_ledger_refused_heads", "Heads on the topic that are not believed.")
LEDGER_ASSIGNED = Gauge("sfumato_ledger_assigned_partitions", "Partitions of audit and disclosures of this worker.")
LEDGER_LAG = Gauge("sfumato_ledger_lag_events", "Events that wait, or are not sealed, in this worker's partitions.")

# archive
ARCHIVED = Counter("sfumato_archive_pieces", "Pieces of jobs, by stage and what became of them.", ["stage", "outcome"])
ARCHIVED_FRAMES = Counter("sfumato_archive_frames", "Pictures of jobs' files, by outcome.", ["outcome"])
ARCHIVE_ASSIGNED = Gauge("sfumato_archive_assigned_partitions", "Partitions of jobs assigned to this worker.")
ARCHIVE_LAG = Gauge("sfumato_archive_lag_messages", "Announcements of work that wait in this worker's partitions.")

# reveal
SUBJECT_REQUESTS = Gauge("sfumato_subject_requests", "Subject requests that are not forgotten, by state.", ["state"])
REVEALED = Counter(
    "sfumato_reveal_clips", "Clips of subject requests that were begun, by what became of them.", ["outcome"]
)

# share
SHARE_ASSIGNED = Gauge("sfumato_share_assigned_partitions", "Partitions of frames.anonymized of this process.")
SHARE_LAG = Gauge("sfumato_share_lag_messages", "Published frames that are not copied yet, in its partitions.")
SHARED = Counter("sfumato_shared_frames", "Frames copied to a vendor's topic.", ["vendor"])
SHARE_REFUSED = Counter("sfumato_share_refused_messages", "Messages of frames.anonymized that break its contract.")

# bridge
VIEWERS = Gauge("sfumato_bridge_viewers", "Viewers connected by WebSocket.")
BRIDGE_FRAMES = Counter("sfumato_bridge_frames", "Frames taken from frames.anonymized.", ["camera"])
BRIDGE_LEFT_OUT = Counter(
    "sfumato_bridge_left_out_frames", "Frames seen before, and units that wait for a keyframe.", ["camera"]
)
BRIDGE_REFUSED = Counter("sfumato_bridge_refused_messages", "Messages of frames.anonymized that break its contract.")
SUBJECT_DELIVERIES = Counter(
    "sfumato_subject_deliveries", "Times that a clip was asked for, by what was answered.", ["outcome"]
)
API_CALLS = Counter("sfumato_api_calls", "Calls of the API, by status.", ["status"])
CALLS_UNPUBLISHED = Counter("sfumato_calls_unpublished", "Audit records of calls that are in the log alone.")


def count(audit: AuditEvent) -> None:
    """Count one frame's outcome; only frames whose audit event the broker has acknowledged."""
    FRAMES.labels(audit.camera or "", audit.outcome).inc()
    if audit.reason is not None:
        REFUSED.labels(audit.outcome, audit.reason).inc()
    for stage, milliseconds in audit.timings_ms:
        if milliseconds:
            STAGE.labels(stage).observe(milliseconds / 1000)
    if audit.captured_at is not None:
        DELAY.observe(max(0.0, (audit.audited_at - audit.captured_at).total_seconds()))


def count_segment(segment: Segment) -> None:
    """Count what a sealed segment says."""
    LEDGER_SEGMENTS.labels(segment.log).inc()
    LEDGER_EVENTS.labels(segment.log).inc(segment.size - segment.first)
    LEDGER_REPEATED.labels(segment.log, "conflict").inc(segment.conflicting)
    LEDGER_REPEATED.labels(segment.log, "duplicate").inc(segment.duplicates - segment.conflicting)
    LEDGER_INVALID.labels(segment.log).inc(segment.invalid)
    if segment.found_late:
        LEDGER_FOUND_LATE.labels(segment.log).inc(segment.found_late)


def serve(settings: Settings) -> None:
    """Start the exporter unless ``metrics_port`` is 0; OSError where the port is taken."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
