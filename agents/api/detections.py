"""``POST /v1/detections``: what is in a picture, and where. The picture is not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.api.images import POLICY_PART, REFUSALS, body, ensemble, policy_of
from sfumato.agents.choose import Choice
from sfumato.agents.lookers import Lookers
from sfumato.agents.settings import Settings
from sfumato.agents.web import receive
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.receive import Received
from sfumato.models.engine import SMALLEST_SIDE
from sfumato.schemas.anonymization import Detected, Detections
from sfumato.schemas.anonymization import found as described
from sfumato.schemas.detection import Evidence
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1", tags=["detections"], route_class=Negotiated)


@router.post(
    "/detections",
    summary="Find faces, licence plates, people and text in a picture",
    operation_id="detectObjects",
    responses=REFUSALS,
    max_body_size=receive.LARGEST,
    openapi_extra=body(**POLICY_PART),
)
async def detect(
    request: Request,
    caller: Annotated[Caller, needs(Scope.DETECTIONS_CREATE)],
    choice: Annotated[Choice, Query()],
) -> Detections:
    settings: Settings = request.app.state.settings
    lookers: Lookers = request.app.state.lookers
    if choice.mask is not None:
        raise HTTPException(422, "mask: nothing is masked here; leave it out")
    received = await receive.receive(request, settings.image_bytes, "policy")
    policy, _ = await policy_of(request, caller, choice, received.parts.get("policy"))
    found = await lookers.run(request, _look(lookers, policy, received, settings.max_pixels))
    request.app.state.usage.add(caller.id, frames=1)
    return found


def _look(lookers: Lookers, policy: Policy, received: Received, max_pixels: int) -> Callable[[], Detections]:
    def work() -> Detections:
        chosen = ensemble(lookers, policy)
        image = receive.open_picture(received.payload, received.content_type, max_pixels)
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise HTTPException(422, f"image: {width}x{height}; no detector can judge a side under {SMALLEST_SIDE} px")
        objects = [
            Detected(**dict(seen), detector=name)
            for name, (detections,) in chosen.apart([image], [policy])
            for seen in described((d for d in detections if d.evidence is not Evidence.WEAK), width, height)
        ]
        return Detections(width=width, height=height, objects=tuple(objects), detectors=chosen.records(policy))

    return work
