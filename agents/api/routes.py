"""Every resource of the API. One line adds one."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from sfumato.agents.api import (
    analyses,
    audit,
    calls,
    cameras,
    detections,
    health,
    images,
    jobs,
    keys,
    policies,
    pseudonyms,
    session,
    subject_requests,
    uploads,
    usage,
)
from sfumato.agents.web import formats

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    cameras.router,
    policies.router,
    audit.router,
    calls.router,
    uploads.router,
    jobs.router,
    session.router,
    keys.router,
    usage.router,
    images.router,
    detections.router,
    analyses.router,
    pseudonyms.router,
    subject_requests.router,
)

ROUTES: tuple[formats.Negotiated, ...] = tuple(
    route for router in ROUTERS for route in router.routes if isinstance(route, formats.Negotiated)
)
"""Those whose resources come in every format."""

RESOURCES: tuple[type[BaseModel], ...] = tuple(
    dict.fromkeys(model for route in ROUTES for model in (formats.returned(route), formats.accepted(route)) if model)
)
"""What these take and return."""
