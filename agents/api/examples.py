"""An example of each resource, for the OpenAPI document. A model without one fails tests/test_openapi.py."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from sfumato.schemas.analysis import Analysis
from sfumato.schemas.anonymization import Anonymization, Detections
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.call import Call
from sfumato.schemas.camera import CameraView, Lift
from sfumato.schemas.health import Health
from sfumato.schemas.job import Job, JobReport, JobRequest
from sfumato.schemas.key import KeyDraft, KeyMade, KeyShown
from sfumato.schemas.page import Page
from sfumato.schemas.policy import Policy
from sfumato.schemas.policy_view import PolicyCheck, PolicySummary, PolicyVersion
from sfumato.schemas.pseudonym import Reveal, Revealed
from sfumato.schemas.session import Session, SignIn
from sfumato.schemas.subject_request import ApprovalDraft, SubjectDraft, SubjectRequest
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.upload import UploadStatus
from sfumato.schemas.usage import DayOfUse

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)

_POLICY: dict[str, Any] = {
    "camera": "north",
    "version": 1,
    "controller": "City of Delft",
    "purpose": "traffic counts",
    "lawful_basis": "public_task",
    "dpia": "2026/7",
    "retention_hours": 24,
    "targets": {"face": {"mask": "solid"}, "licence_plate": {}},
}
_EVENT: dict[str, Any] = {
    "id": "north/1/42",
    "origin": {"topic": "frames.raw", "partition": 3, "offset": 1042},
    "camera": "north",
    "epoch": 1,
    "sequence": 42,
    "outcome": "masked",
    "captured_at": NOON,
    "time_source": "camera",
    "audited_at": NOON,
    "policy_version": 1,
    "detectors": [{"name": "centerface", "weights_sha256": "0" * 64}],
    "detections": [{"class": "face", "score": 0.91, "box": [10, 20, 40, 60], "track": 7}],
    "width": 640,
    "height": 480,
    "input_bytes": 48_211,
    "input_sha256": "1" * 64,
    "output_bytes": 47_003,
    "output_sha256": "2" * 64,
}
_CALL: dict[str, Any] = {
    "id": "0123456789abcdef0123456789abcdef",
    "at": NOON,
    "caller": "key:0123456789ab",
    "purpose": "traffic counts",
    "method": "GET",
    "route": "/v1/cameras/{camera}",
    "path": "/v1/cameras/north",
    "status": 200,
    "duration_ms": 3.2,
    "bytes_in": 0,
    "bytes_out": 512,
}
_CAMERA: dict[str, Any] = {
    "id": "north",
    "state": "live",
    "fps": 24.8,
    "viewers": 2,
    "frame": "north/1/42",
    "captured_at": NOON,
    "time_source": "camera",
    "width": 640,
    "height": 480,
    "content_type": "image/jpeg",
    "outcome": "masked",
    "reason": None,
    "policy_version": 1,
    "objects": 1,
    "latency_ms": 130,
    "age_ms": 20,
    "policy": {"name": "north", "version": 1},
}
_SUSPENSION: dict[str, Any] = {
    "camera": "north",
    "state": "lifted",
    "at": NOON,
    "by": "key:1f2e3d4c5b6a",
    "note": "looked at every find: a poster",
}
_KEY: dict[str, Any] = {
    "id": "1f2e3d4c5b6a",
    "prefix": "sfumato_1f2e3d4c5b6a_",
    "name": "press office",
    "scopes": ["images:anonymize"],
    "cameras": ["north-*"],
    "purpose": "publication",
    "rate": None,
    "bytes_a_day": None,
    "frames_a_day": 10_000,
    "made_by": "key:0a1b2c3d4e5f",
    "created_at": NOON,
    "expires_at": None,
    "revoked_at": None,
    "used_at": None,
}
_DAY: dict[str, Any] = {
    "caller": "key:1f2e3d4c5b6a",
    "day": NOON.date(),
    "requests": 120,
    "frames": 100,
    "bytes_in": 4_800_000,
    "bytes_out": 4_700_000,
}
_ID = "5f0c2b7d9a814c36a1d25e8b3f4a6c70"
_DETECTORS = [{"name": "centerface", "weights_sha256": "0" * 64}]
_PLACE: dict[str, Any] = {
    "box": {"left": 64, "top": 48, "right": 128, "bottom": 144},
    "relative": {"left": 0.1, "top": 0.1, "right": 0.2, "bottom": 0.3},
    "score": 0.91,
}
_OBJECT: dict[str, Any] = {"target": "face", **_PLACE}
_ACCOUNT = {"frames": 250, "masked": 250, "fully_masked": 0, "dropped": 0, "looked_at": 250, "boxes": {"face": 312}}
_FILE: dict[str, Any] = {
    "number": 0,
    "name": "market",
    "state": "succeeded",
    "kind": "film",
    "frames_done": 250,
    "frames_total": 250,
    "bytes_before": 4_800_000,
    "sha256_before": "1" * 64,
    "result": {
        "href": f"/v1/jobs/{_ID}/files/0/content",
        "name": "market.mp4",
        "content_type": "video/mp4",
        "bytes": 4_100_000,
        "sha256": "2" * 64,
        "width": 1280,
        "height": 720,
        "sound": False,
        "account": _ACCOUNT,
        "metadata": {"removed": ["make", "coordinates"]},
        "credentials": True,
    },
}
_JOB: dict[str, Any] = {
    "id": _ID,
    "state": "succeeded",
    "version": 12,
    "purpose": "press archive",
    "policy": {"camera": "north", "version": 1},
    "options": {},
    "steps": ["anonymize", "publish"],
    "destinations": [{"type": "download"}],
    "created_at": NOON,
    "started_at": NOON,
    "ended_at": NOON,
    "expires_at": datetime(2027, 1, 8, 12, tzinfo=UTC),
    "files": [_FILE],
}
_MEASURES: dict[str, Any] = {
    "width": 64,
    "height": 96,
    "eye_distance": 28.5,
    "sharpness": 0.21,
    "pose": {"yaw": 12.0, "pitch": -3.5, "roll": 1.0},
    "occlusion": 0.0,
    "usable_by_recogniser": True,
}
_SIZE = {"width": 640, "height": 480}

_SUBJECT: dict[str, Any] = {
    "kind": "access",
    "camera": "north",
    "epoch": 1,
    "sequence": 42,
    "captured_at": NOON,
    "since": datetime(2027, 1, 1, 11, 59, 50, tzinfo=UTC),
    "until": datetime(2027, 1, 1, 12, 0, 20, tzinfo=UTC),
    "reason": "access under Article 15",
    "case": "2027/17",
}

_SINGLE: dict[type[BaseModel], dict[str, Any]] = {
    Analysis: {
        **_SIZE,
        "faces": [{**_PLACE, "measures": _MEASURES}],
        "left_out": 0,
        "criteria": {},
        "detectors": _DETECTORS,
    },
    Anonymization: {
        **_SIZE,
        "id": "q3Zk0v8xT1mJ",
        "picture": "/v1/images/q3Zk0v8xT1mJ",
        "expires_at": NOON,
        "content_type": "image/jpeg",
        "size": 47_003,
        "sha256": "2" * 64,
        "outcome": "masked",
        "objects": [_OBJECT],
        "policy": "north",
        "policy_version": 1,
        "detectors": _DETECTORS,
    },
    AuditEvent: _EVENT,
    Call: _CALL,
    CameraView: _CAMERA,
    Detections: {**_SIZE, "objects": [{**_OBJECT, "detector": "centerface"}], "detectors": _DETECTORS},
    Health: {"status": "ok"},
    Job: _JOB,
    JobReport: JobReport.of(Job.model_validate(_JOB)).model_dump(),
    JobRequest: {
        "files": [{"upload": _ID, "name": "market"}],
        "policy": {"name": "north"},
        "purpose": "press archive",
    },
    Lift: {"note": "looked at every find: a poster"},
    Policy: _POLICY,
    PolicyCheck: {"camera": "north", "version": 1, "warnings": []},
    PolicySummary: {"camera": "north", "version": 1, "targets": ["face", "licence_plate"]},
    PolicyVersion: {"version": 1, "set_at": NOON, "in_force": True, "valid": True},
    KeyDraft: {"name": "press office", "roles": ["vendor"], "cameras": ["north-*"], "purpose": "publication"},
    KeyMade: {**_KEY, "key": "sfumato_1f2e3d4c5b6a_SECRET"},
    KeyShown: _KEY,
    DayOfUse: _DAY,
    Reveal: {
        "pseudonym": "camera_name.3q2-7wAAbHk",
        "recipient": "press archive",
        "period": "2027-01",
        "reason": "request 17 of the data subject",
    },
    Revealed: {"field": "camera_name", "value": "north"},
    Session: {"caller": "key:1f2e3d4c5b6a", "scopes": ["cameras:read"], "cameras": ["*"], "purpose": "press office"},
    SignIn: {"key": "sfumato_1f2e3d4c5b6a_SECRET"},
    ApprovalDraft: {"verdict": "approve", "note": "identity checked at the counter"},
    SubjectDraft: {**_SUBJECT, "point": {"x": 25, "y": 40}},
    SubjectRequest: {
        **_SUBJECT,
        "id": _ID,
        "state": "ready",
        "version": 4,
        "target": "face",
        "box": {"left": 10, "top": 20, "right": 40, "bottom": 60},
        "requested_by": "key:1f2e3d4c5b6a",
        "needed": 1,
        "approvals": [{"by": "key:0a1b2c3d4e5f", "verdict": "approve", "note": "identity checked", "at": NOON}],
        "created_at": NOON,
        "expires_at": datetime(2027, 1, 4, 12, tzinfo=UTC),
        "footage_until": datetime(2027, 1, 1, 12, 10, tzinfo=UTC),
        "clip": {
            "href": f"/v1/subject-requests/{_ID}/content",
            "content_type": "video/mp4",
            "bytes": 4_100_000,
            "sha256": "2" * 64,
            "width": 640,
            "height": 480,
            "frames": 750,
            "shown": 700,
            "doubtful": 48,
            "grey": 2,
            "undecodable": 2,
            "reasons": {"damaged": 2},
        },
    },
    Suspension: _SUSPENSION,
    UploadStatus: {
        "id": _ID,
        "filename": "market.mp4",
        "length": 4_800_000,
        "offset": 4_800_000,
        "complete": True,
        "content_type": "video/mp4",
        "created_at": NOON,
        "expires_at": datetime(2027, 1, 2, 12, tzinfo=UTC),
    },
}


def example(model: type[BaseModel]) -> Any:
    """As JSON; None: there is none."""
    if issubclass(model, Page):
        (item,) = model.__pydantic_generic_metadata__["args"]
        shown = example(item)
        return None if shown is None else {"items": [shown], "next": None}
    known = _SINGLE.get(model)
    return None if known is None else model.model_validate(known).model_dump(mode="json", by_alias=True)
