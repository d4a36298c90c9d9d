"""``POST /v1/analyses``: what a recogniser could make of the faces in a picture, and what a mask leaves of them.

No template is returned, logged or stored (``docs/analyses.md``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.api.images import REFUSALS, body, ensemble
from sfumato.agents.lookers import Lookers
from sfumato.agents.rules import Rules
from sfumato.agents.settings import Settings
from sfumato.agents.web import receive
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.receive import Received
from sfumato.models import analysis, images
from sfumato.models.centerface import CenterFace
from sfumato.models.detectors import Image
from sfumato.models.images import ImageError
from sfumato.models.recogniser import Recogniser, RecogniserError
from sfumato.models.weights import WeightError
from sfumato.schemas.analysis import Analysis, RecogniserRecord
from sfumato.schemas.detection import DetectorName, Evidence, Target
from sfumato.schemas.part import Part
from sfumato.schemas.scope import Scope

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["analyses"], route_class=Negotiated)

FACES = Rules.usual([Target.FACE], None).policy
OTHER = (
    "does not show the same scene around the faces, or too little of it is left to tell; "
    "two pictures are not compared here: send what was made of this picture"
)
MASKED_PART: dict[str, Any] = {
    "masked": {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "description": "The same picture, masked",
    }
}


class Options(Part):
    """``masked``: the id of a masked picture that ``POST /v1/images:anonymize`` answered with its URL."""

    masked: Annotated[str, Field(max_length=64)] | None = None


@router.post(
    "/analyses",
    summary="Judge the faces of a picture, without recognising anybody",
    operation_id="analyseFaces",
    responses={**REFUSALS, 501: {"description": "There is no recogniser here; the extra `attack` brings one"}},
    max_body_size=receive.LARGEST,
    openapi_extra=body(**MASKED_PART),
)
async def analyse(
    request: Request,
    caller: Annotated[Caller, needs(Scope.ANALYSES_CREATE)],
    options: Annotated[Options, Query()],
) -> Analysis:
    settings: Settings = request.app.state.settings
    lookers: Lookers = request.app.state.lookers
    received = await receive.receive(request, settings.image_bytes, "masked")
    masked = received.parts.get("masked")
    if options.masked is not None:
        if masked is not None:
            raise HTTPException(422, "masked: sent along and named by its id; leave one out")
        kept = request.app.state.shelf.get(caller.id, options.masked)
        if kept is None:
            raise HTTPException(422, "masked: not, or no longer, there, or not yours; send it as the part `masked`")
        masked = kept.payload
    analysed = await lookers.run(request, _analyse(lookers, received, masked, settings.max_pixels))
    request.app.state.usage.add(caller.id, frames=1 if masked is None else 2)
    return analysed


def _analyse(lookers: Lookers, received: Received, masked: bytes | None, max_pixels: int) -> Callable[[], Analysis]:
    def work() -> Analysis:
        recogniser = None if masked is None else _recogniser(lookers)
        chosen = ensemble(lookers, FACES)
        detector = cast(CenterFace, lookers.detector(DetectorName.CENTERFACE))
        image = receive.open_picture(received.payload, received.content_type, max_pixels)
        other = None if masked is None else _counterpart(masked, image, max_pixels)
        height, width = image.shape[:2]
        (detections,) = chosen.detect([image], [FACES])
        faces = [d for d in detections if d.evidence is not Evidence.WEAK]
        if other is not None and not analysis.same_scene(image, other, [face.box for face in faces]):
            raise HTTPException(422, f"masked: {OTHER}")
        return Analysis(
            width=width,
            height=height,
            faces=analysis.analyse(image, other, faces, detector, recogniser, lookers.turn),
            left_out=max(0, len(faces) - analysis.MOST_FACES),
            criteria=analysis.CRITERIA,
            detectors=chosen.records(FACES),
            recogniser=recogniser and RecogniserRecord(name=recogniser.name, weights_sha256=recogniser.weights_sha256),
        )

    return work


def _recogniser(lookers: Lookers) -> Recogniser:
    try:
        return lookers.recogniser()
    except RecogniserError as error:
        raise HTTPException(501, f"masked: {error}") from None
    except WeightError as error:
        log.error("the recogniser cannot be loaded: %s", error)
        raise HTTPException(503, "masked: weights are missing: `sfumato weights --recogniser`") from None


def _counterpart(masked: bytes, image: Image, max_pixels: int) -> Image:
    try:
        other = images.decode_file(masked, images.sniff(masked), max_pixels=max_pixels)
    except ImageError as error:
        raise HTTPException(422, f"masked: {error}") from None
    if other.shape != image.shape:
        (height, width), (h, w) = other.shape[:2], image.shape[:2]
        raise HTTPException(
            422, f"masked: {width}x{height}, the picture is {w}x{h}; send what was made of this picture"
        )
    return other
