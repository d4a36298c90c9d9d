"""Errors of the API as ``application/problem+json`` or ``application/problem+xml`` (RFC 9457), as ``Accept`` says.

Raise ``HTTPException(status, "field: what is wrong; what to do")``, or :class:`Refusal` to name fields or another kind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from xml.sax.saxutils import escape

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from sfumato.agents.database import AWAY
from sfumato.agents.web import formats, request_ids
from sfumato.schemas.policy import Policy
from sfumato.schemas.problem import KINDS, TYPES, Fault, Problem
from sfumato.schemas.remedy import field_of, remedy

log = logging.getLogger(__name__)

JSON = "application/problem+json"
XML = "application/problem+xml"
NAMESPACE = "urn:ietf:rfc:7807"
"""Of problems in XML (RFC 9457, appendix B)."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LONGEST_NAME = 100
SHOWN = 100
"""Faults that one answer names at most."""


class Refusal(HTTPException):
    """A problem with faults by field, or of a kind of its own (the end of its ``type``)."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str | None = None,
        errors: Iterable[Fault] = (),
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.errors = tuple(errors)


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DataError, _unstorable)
    for kind in AWAY:
        app.add_exception_handler(kind, _away)


def response(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    *,
    kind: str | None = None,
    errors: Iterable[Fault] = (),
) -> Response:
    """The answer to the current request."""
    asked = request_ids.current.get()
    problem = Problem(
        type=TYPES + (kind or KINDS.get(status, f"status-{status}")),
        title=title(status),
        status=status,
        detail=detail,
        instance=f"urn:sfumato:request:{asked.id}" if asked.id else None,
        errors=tuple(errors),
    )
    own = {"X-Request-Id": asked.id} if asked.id else {}
    as_xml = formats.choose(asked.accept, (JSON, formats.JSON, XML, formats.XML)) in (XML, formats.XML)
    body = _xml(problem) if as_xml else problem.model_dump_json(exclude_none=True).encode()
    return Response(body, status, {**own, **(headers or {}), "Vary": "Accept"}, media_type=XML if as_xml else JSON)


def faults(error: ValidationError, docs: str = "docs/api.md") -> list[Fault]:
    """What is wrong with a document, by field. ``docs``: where its fields are described."""
    return [_fault(each, ("body", *each["loc"]), docs) for each in error.errors(include_input=False, include_url=False)]


def summary(errors: Iterable[Fault]) -> str:
    """One line: each field at fault, what is wrong and what to do."""
    return "; ".join(
        f"{each.field}: {each.detail}" + (f"; {each.remedy}" if each.remedy != each.detail else "") for each in errors
    )


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        return response(error.status_code, error.detail, error.headers, kind=error.kind, errors=error.errors)
    if not isinstance(error, HTTPException):
        return response(500, "internal error; the log of the bridge says more under this request's id")
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == 405:
        allowed = _allowed(request)
        return response(405, f"this path answers {', '.join(allowed)}", {**headers, "Allow": ", ".join(allowed)})
    if error.status_code == 404 and detail == title(404):
        detail = "no such path; GET /openapi.json lists all"
    return response(error.status_code, detail, headers)


async def _unstorable(request: Request, error: Exception) -> Response:
    """PostgreSQL holds no text with U+0000, and no larger numbers than SQL knows."""
    return response(422, "a text with the character U+0000, or a number that is too large; leave it out")


def away(error: Exception) -> Response:
    """The answer while the database is away. Of the error its kind alone: its text may hold what was sent."""
    log.error("the database does not answer: %s", type(getattr(error, "orig", error)).__name__)
    return response(503, "the database does not answer; try again", {"Retry-After": "5"})


async def _away(request: Request, error: Exception) -> Response:
    return away(error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    docs = "docs/api.md"
    route = request.scope.get("route")
    if isinstance(route, APIRoute) and route.body_field is not None and formats.accepted(route) is Policy:
        docs = "docs/policies.md"
    found = [_fault(each, tuple(each["loc"]), docs) for each in error.errors()[:SHOWN]]
    return response(422, summary(found), errors=found)


def _fault(error: ErrorDetails, loc: tuple[int | str, ...], docs: str) -> Fault:
    where, path = loc[0], [str(part)[:LONGEST_NAME] for part in loc[1:] if part != "[key]"]
    detail, _, cure = remedy({**error, "loc": loc}, docs).partition("; ")
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path) if where == "body" else None
    return Fault(field=".".join(path) or field_of(error), pointer=pointer, detail=detail, remedy=cure or detail)


def _allowed(request: Request) -> list[str]:
    """Every method that some route of this path has; a described one, if any is."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    routes = [*iter_route_contexts(request.app.routes)]
    found = [(m, each) for m, scope in scopes.items() for each in routes if each.matches(scope)[0] is Match.FULL]
    described = [method for method, each in found if getattr(each, "include_in_schema", False)]
    return [*dict.fromkeys(described or [method for method, _ in found])]


def title(status: int) -> str:
    """HTTP's own words for a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return KINDS.get(status, "Error").replace("-", " ").capitalize()


def _xml(problem: Problem) -> bytes:
    inner = "".join(_elements(problem.model_dump(mode="json", exclude_none=True)))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<problem xmlns="{NAMESPACE}">{inner}</problem>\n'.encode()


def _elements(document: Mapping[str, object]) -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, list):
            items = "".join(f"<i>{''.join(_elements(each))}</i>" for each in value)
            yield f"<{name}>{items}</{name}>"
        else:
            yield f"<{name}>{escape(_printable(str(value)))}</{name}>"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
