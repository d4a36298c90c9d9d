"""A camera as the API shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.part import Part, Text
from sfumato.schemas.suspension import Suspension


class PolicyInForce(Part):
    """Which policy applies to frames captured now. ``name``: a camera's id or a pattern; null: none applies.
    ``reason``: why frames are fully masked all the same, where they are."""

    name: str | None = None
    version: int | None = None
    schedule: str | None = None
    reason: Reason | None = None


class CameraView(Part):
    """A camera that the bridge has seen since it started, and its newest anonymized frame (docs/bridge.md). ``state``:
    live, stale or lost. ``policy`` and ``suspension`` hold now, ``policy_version`` for the newest frame. ``policy`` is
    null while the bridge has not read the policies; ``suspension``: the newest record, null where there was none."""

    id: str
    state: str
    fps: float
    viewers: int
    frame: str
    captured_at: datetime
    time_source: str
    width: int
    height: int
    content_type: str
    outcome: Outcome
    reason: Reason | None
    policy_version: int | None
    objects: int
    latency_ms: int
    age_ms: int
    policy: PolicyInForce | None = None
    suspension: Suspension | None = None


class Lift(Part):
    """Why a suspension is lifted. ``note`` is kept with it, and who the caller is."""

    note: Annotated[Text, Field(description="What was looked at and found")]
