"""Pseudonyms of metadata, reversed for those who may; each call is recorded."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.pseudonyms import PseudonymError, Pseudonyms, UnknownPseudonymError, record
from sfumato.agents.web.formats import Negotiated
from sfumato.schemas.pseudonym import Reveal, Revealed
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1", tags=["pseudonyms"], route_class=Negotiated)

ANSWERS: dict[int | str, dict[str, Any]] = {
    404: {"description": "Not a pseudonym of this recipient and period, or its secret was destroyed"},
    422: {"description": "Not a pseudonym or period, or no reason"},
}


@router.post(
    "/pseudonyms:reveal",
    summary="The value behind a pseudonym; recorded with its reason",
    operation_id="revealPseudonym",
    responses=ANSWERS,
)
def reveal(
    asked: Reveal, request: Request, response: Response, caller: Annotated[Caller, needs(Scope.PSEUDONYMS_REVEAL)]
) -> Revealed:
    try:
        field, value = Pseudonyms(request.app.state.settings).reveal(asked.pseudonym, asked.recipient, asked.period)
    except PseudonymError as error:
        record(asked, caller.id, caller.purpose, "refused")
        raise HTTPException(404 if isinstance(error, UnknownPseudonymError) else 422, str(error)) from None
    record(asked, caller.id, caller.purpose, "revealed")  # before it is known to the caller
    response.headers["Cache-Control"] = "no-store"
    return Revealed(field=field, value=value)
