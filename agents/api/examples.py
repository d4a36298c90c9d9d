"""An example of each resource, for the OpenAPI document. A model without one fails tests/test_openapi.py."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.camera import CameraView, Lift
from sfumato.schemas.health import Health
from sfumato.schemas.key import KeyDraft, KeyMade, KeyPage, KeyShown
from sfumato.schemas.page import Page
from sfumato.schemas.policy import Policy
from sfumato.schemas.policy_view import PolicyCheck, PolicySummary, PolicyVersion
from sfumato.schemas.session import Session, SignIn
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.usage import UsagePage

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

_SINGLE: dict[type[BaseModel], dict[str, Any]] = {
    AuditEvent: _EVENT,
    CameraView: _CAMERA,
    Health: {"status": "ok"},
    Lift: {"note": "looked at every find: a poster"},
    Policy: _POLICY,
    PolicyCheck: {"camera": "north", "version": 1, "warnings": []},
    PolicySummary: {"camera": "north", "version": 1, "targets": ["face", "licence_plate"]},
    PolicyVersion: {"version": 1, "set_at": NOON, "in_force": True, "valid": True},
    KeyDraft: {"name": "press office", "roles": ["vendor"], "cameras": ["north-*"], "purpose": "publication"},
    KeyMade: {**_KEY, "key": "sfumato_1f2e3d4c5b6a_SECRET"},
    KeyPage: {"items": [_KEY], "next": None},
    KeyShown: _KEY,
    UsagePage: {"items": [_DAY], "next": None},
    Session: {"caller": "key:1f2e3d4c5b6a", "scopes": ["cameras:read"], "cameras": ["*"], "purpose": "press office"},
    SignIn: {"key": "sfumato_1f2e3d4c5b6a_SECRET"},
    Suspension: _SUSPENSION,
}


def example(model: type[BaseModel]) -> Any:
    """As JSON; None: there is none."""
    if issubclass(model, Page):
        (item,) = model.__pydantic_generic_metadata__["args"]
        shown = example(item)
        return None if shown is None else {"items": [shown], "next": None}
    known = _SINGLE.get(model)
    return None if known is None else model.model_validate(known).model_dump(mode="json", by_alias=True)
