"""Policies as the API lists and checks them; each itself is a :class:`~sfumato.schemas.policy.Policy`."""

from __future__ import annotations

from datetime import datetime

from sfumato.schemas.detection import Target
from sfumato.schemas.outcome import Reason
from sfumato.schemas.part import Part


class PolicySummary(Part):
    """A policy in force. ``camera``: an id or a pattern. ``schedule``: which is in force now. ``reason``: why frames
    are fully masked now, ``detail``: which field of the policy is at fault. ``targets``: what is masked now."""

    camera: str
    version: int | None = None
    schedule: str | None = None
    targets: tuple[Target, ...] = ()
    reason: Reason | None = None
    detail: str | None = None


class PolicyVersion(Part):
    """A version that was set. ``valid``: whether it still is, by the rules of today."""

    version: int
    set_at: datetime
    in_force: bool
    valid: bool


class PolicyCheck(Part):
    """A policy that could be set. ``warnings``: what is allowed and yet unwise, each with the field."""

    camera: str
    version: int
    warnings: tuple[str, ...] = ()
