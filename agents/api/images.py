"""``POST /v1/images:anonymize``: a picture in, the same picture masked out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.choose import Choice, Chosen, choose, for_picture
from sfumato.agents.credentials import Credentials
from sfumato.agents.lookers import Lookers
from sfumato.agents.pseudonyms import Pseudonyms
from sfumato.agents.rules import MaskError
from sfumato.agents.settings import Settings
from sfumato.agents.web import receive
from sfumato.agents.web.formats import RESOURCE, Negotiated
from sfumato.agents.web.formats import choose as preferred
from sfumato.agents.web.receive import Received
from sfumato.models import still
from sfumato.models.detectors import DetectorError
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import FORMATS, ImageError
from sfumato.models.still import Still
from sfumato.models.weights import WeightError
from sfumato.schemas.anonymization import Anonymization, found
from sfumato.schemas.credential import Statement
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["images"], route_class=Negotiated)

QUALITY = 90
"""Of JPEG and WebP, as ``sfumato mask`` writes them."""
HEADER = "Sfumato-Policy"
PICTURE = {"schema": {"type": "string", "format": "binary"}}


def body(**parts: dict[str, Any]) -> dict[str, Any]:
    """The request body of a picture in OpenAPI; ``parts``: what a form may hold besides."""
    binary: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
    form: dict[str, Any] = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {**binary, "description": "The picture"}, **parts},
        "additionalProperties": False,
    }
    content: dict[str, Any] = {kind: {"schema": binary} for kind in FORMATS}
    kinds = {name: {"contentType": ", ".join(FORMATS)} for name in ("image", "masked") if name in form["properties"]}
    return {
        "requestBody": {"required": True, "content": {**content, receive.FORM: {"schema": form, "encoding": kinds}}}
    }


POLICY_PART = {"policy": {"type": "string", "description": "A policy as JSON (docs/policies.md)"}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No picture"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "Not a JPEG, PNG or WebP, or not what it says"},
    422: {"description": "A picture that cannot be used, an unknown name, or a policy that is not valid"},
    503: {"description": "All places are taken; Retry-After says when to come again"},
    504: {"description": "Not done in time"},
}


async def policy_of(request: Request, caller: Caller, choice: Choice, inline: bytes | None) -> Chosen:
    """What the request asks for (:func:`sfumato.agents.choose.choose`)."""
    state = request.app.state
    header = request.headers.get(HEADER)
    if header is not None and inline is not None:
        raise HTTPException(422, f"policy: sent along as a part and as {HEADER}; leave one out")
    given = header.encode() if header is not None else inline
    wanted = choice.with_inline(given)
    return for_picture(await asyncio.to_thread(choose, wanted, state.standing, caller))


def ensemble(lookers: Lookers, policy: Policy) -> Ensemble:
    """The detectors that the policy needs: 422 where there is none for a target, 503 where a weight is missing."""
    try:
        return lookers.ensemble(policy)
    except MaskError as error:
        raise HTTPException(422, str(error)) from None
    except (DetectorError, WeightError) as error:
        log.error("a detector cannot be loaded: %s", error)
        raise HTTPException(503, "a detector cannot be loaded; the administrator finds why in the log") from None


class Asked(Choice):
    """``credentials``: the masked picture carries a signed statement of what was done to it (docs/credentials.md)."""

    credentials: bool = True


@router.post(
    "/images:anonymize",
    summary="Mask a picture",
    operation_id="anonymizeImage",
    response_model=Anonymization,
    responses={200: {"content": {kind: PICTURE for kind in FORMATS}}, **REFUSALS},
    max_body_size=receive.LARGEST,
    openapi_extra=body(**POLICY_PART),
)
async def anonymize(
    request: Request,
    caller: Annotated[Caller, needs(Scope.IMAGES_ANONYMIZE)],
    asked: Annotated[Asked, Query()],
) -> Any:
    settings: Settings = request.app.state.settings
    lookers: Lookers = request.app.state.lookers
    received = await receive.receive(request, settings.image_bytes, "policy")
    _prefer(request, received.content_type)
    chosen = await policy_of(request, caller, asked, received.parts.get("policy"))
    signing: Credentials | None = request.app.state.credentials if asked.credentials else None
    masked = await lookers.run(request, _mask(lookers, chosen, received, settings, signing))
    request.app.state.usage.add(caller.id, frames=1)
    if request.state.format in FORMATS:
        return Response(masked.payload, media_type=received.content_type, headers=_headers(masked, chosen))
    return _describe(request, caller, chosen, masked, received.content_type)


@router.get(
    "/images/{id}",
    summary="A masked picture that was answered with its URL",
    operation_id="getImage",
    responses={200: {"content": {kind: PICTURE for kind in FORMATS}}, 404: {"description": "Not, or no longer, there"}},
    response_class=Response,
)
async def fetch(request: Request, id: str, caller: Annotated[Caller, needs(Scope.IMAGES_ANONYMIZE)]) -> Response:
    kept = request.app.state.shelf.get(caller.id, id)
    if kept is None:
        raise HTTPException(404, "not, or no longer, there, or not yours; anonymize the picture again")
    return Response(kept.payload, media_type=kept.content_type, headers={"Cache-Control": "no-store"})


def _prefer(request: Request, content_type: str) -> None:
    """Choose among the picture in its own format and the resource; who says nothing gets the picture."""
    offered = (content_type, *RESOURCE)
    wanted = preferred(request.headers.get("accept", ""), offered)
    if wanted is None:
        raise HTTPException(406, f"Accept: a picture comes back in its own format; one of {', '.join(offered)}")
    request.state.format = wanted


def _mask(
    lookers: Lookers, chosen: Chosen, received: Received, settings: Settings, signing: Credentials | None
) -> Callable[[], Still]:
    policy, named = chosen

    def work() -> Still:
        looking = ensemble(lookers, policy)
        try:
            masked = still.mask(
                received.payload,
                looking,
                policy,
                max_pixels=settings.max_pixels,
                quality=QUALITY,
                pseudonymize=Pseudonyms(settings).pseudonymize,
            )
        except ImageError as error:
            raise receive.refusal(error) from None
        if signing is None:
            return masked
        statement = Statement.of(policy, masked.account, looking.records(policy), masked.metadata, named=named)
        return replace(masked, payload=signing.sign(received.content_type, masked.payload, statement))

    return work


def _headers(masked: Still, chosen: Chosen) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(masked.payload).digest()).decode()
    headers = {
        "Cache-Control": "no-store",
        "Content-Digest": f"sha-256=:{digest}:",
        "Sfumato-Outcome": _outcome(masked),
        "Sfumato-Objects": str(len(masked.detections)),
    }
    if masked.reason is not None:
        headers["Sfumato-Reason"] = masked.reason
    if masked.account.spared:
        headers["Sfumato-Spared"] = ",".join(masked.account.spared)
    if chosen.named:
        headers["Sfumato-Policy-Version"] = str(chosen.policy.version)
    return headers


def _describe(request: Request, caller: Caller, chosen: Chosen, masked: Still, content_type: str) -> Anonymization:
    settings: Settings = request.app.state.settings
    id = request.app.state.shelf.put(caller.id, masked.payload, content_type)
    policy, named = chosen
    return Anonymization(
        id=id,
        picture=f"/v1/images/{id}",
        expires_at=datetime.now(UTC) + timedelta(seconds=settings.image_kept),
        content_type=content_type,
        size=len(masked.payload),
        sha256=hashlib.sha256(masked.payload).hexdigest(),
        width=masked.width,
        height=masked.height,
        outcome=_outcome(masked),
        reason=masked.reason,
        objects=found(masked.detections, masked.width, masked.height),
        spared=tuple(masked.account.spared),
        policy=policy.camera if named else None,
        policy_version=policy.version if named else None,
        detectors=request.app.state.lookers.ensemble(policy).records(policy),
    )


def _outcome(masked: Still) -> Outcome:
    return Outcome.MASKED if masked.reason is None else Outcome.FULLY_MASKED
