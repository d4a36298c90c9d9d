"""Lists in pages: ``limit`` and an opaque ``cursor``, which is checked when it comes back.

An endpoint takes ``limit: Limit = LIMIT, cursor: Cursor = None`` and returns ``Page[T]``; :func:`page` cuts a sorted
list, :func:`newest` one that a database sorts by the moment its items were made, :func:`write` and :func:`read` are for
other places to go on from.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from sfumato.schemas.page import Page
from sfumato.schemas.part import Part

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
D = TypeVar("D", bound="Dated")
LIMIT = 100

Limit = Annotated[int, Query(ge=1, le=1000, description="How many items at most")]


def cursor(form: str, max_length: int = 4000) -> Any:
    """The query parameter; ``form``: the format that OpenAPI names it by, one for each kind of place."""
    return Query(
        description="`next` of the page before; nothing: from the beginning",
        max_length=max_length,
        json_schema_extra={"format": form},
    )


Cursor = Annotated[str | None, cursor("cursor")]
"""Of a list that :func:`page` cuts, or that goes on :class:`After` a name."""


class After(Part):
    """The place after an item, by its name."""

    after: Annotated[str, Field(max_length=500)]


class Before(Part):
    """The place after an item of a list that begins with the newest."""

    created_at: AwareDatetime
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Dated(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def created_at(self) -> datetime: ...


def write(place: BaseModel) -> str:
    return base64.urlsafe_b64encode(place.model_dump_json().encode()).decode().rstrip("=")


def read(cursor: str | None, model: type[M]) -> M | None:
    """The place that a cursor means, None: the beginning; HTTPException 400 where it is not one of this model."""
    if cursor is None:
        return None
    try:
        return model.model_validate_json(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValidationError, binascii.Error, ValueError):
        raise HTTPException(
            400, "cursor: not one that this resource gave; send `next` of a page as it is, or leave it out"
        ) from None


def page(items: Iterable[T], limit: int, cursor: str | None, name: Callable[[T], str]) -> Page[T]:
    """The items after the cursor, which are sorted by their name."""
    place = read(cursor, After)
    rest = [item for item in items if place is None or name(item) > place.after]
    more = len(rest) > limit
    return Page(items=tuple(rest[:limit]), next=write(After(after=name(rest[limit - 1]))) if more else None)


def newest(cursor: str | None, find: Callable[[tuple[datetime, str] | None], tuple[list[D], bool]]) -> Page[D]:
    """``find`` gives the items, newest first, that were made before this moment and id (None: all), and whether there
    are more."""
    place = read(cursor, Before)
    items, more = find((place.created_at, place.id) if place is not None else None)
    last = items[-1] if more and items else None
    following = write(Before(created_at=last.created_at, id=last.id)) if last is not None else None
    return Page(items=tuple(items), next=following)
