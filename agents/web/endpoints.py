"""Which endpoint a request is for, for what looks at it before the endpoint does."""

from __future__ import annotations

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Match
from starlette.types import Scope

FOUND = "sfumato.endpoint"
"""Where a request's scope holds it."""


def endpoint(scope: Scope) -> RouteContext | None:
    """None: there is none of this path and method."""
    if FOUND not in scope:
        contexts = iter_route_contexts(scope["app"].routes)
        scope[FOUND] = next((each for each in contexts if each.matches(scope)[0] is Match.FULL), None)
    found: RouteContext | None = scope[FOUND]
    return found


def template(scope: Scope) -> str | None:
    """Its path, with names for the parts that vary."""
    found = endpoint(scope)
    return None if found is None else found.path_format or found.path


def largest_body(scope: Scope, otherwise: int) -> int:
    """Bytes that it takes: the ``max_body_size`` of its route."""
    stated: int | None = getattr(endpoint(scope), "max_body_size", None)
    return otherwise if stated is None else stated
