"""Whether the bridge works, for the machine that runs it; and its metrics."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.web.formats import Negotiated
from sfumato.schemas.health import Health
from sfumato.schemas.scope import Scope

router = APIRouter(tags=["health"], route_class=Negotiated)

FAILS: dict[int | str, dict[str, Any]] = {503: {"description": "It does not work"}}


@router.get("/healthz", summary="The process answers", operation_id="getHealth", responses=FAILS)
async def healthz(request: Request) -> Health:
    """For whoever restarts it. From this machine without a key."""
    if not request.app.state.reader.is_alive():
        raise HTTPException(503, "the thread that reads Kafka has ended; restart the bridge")
    if request.app.state.lookers.stuck:
        raise HTTPException(503, "the detectors do not come back; restart the bridge")
    return Health(status="ok")


@router.get(
    "/readyz", summary="The broker answers and every partition is read", operation_id="getReadiness", responses=FAILS
)
async def readyz(request: Request) -> Health:
    """For whoever sends it viewers. From this machine without a key."""
    if not request.app.state.reader.ready:
        raise HTTPException(503, "the broker does not answer, or the topic does not exist")
    return Health(status="ready")


@router.get("/metrics", include_in_schema=False)
async def exported(caller: Annotated[Caller, needs(Scope.METRICS_READ)]) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
