"""API keys as the API takes and shows them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from sfumato.schemas.part import Moment, Part, Text
from sfumato.schemas.scope import ROLES, Role, Scope

CamerasPattern = Annotated[str, Field(pattern=r"^[a-z0-9*?_-]{1,64}$")]
"""A camera's id, or a pattern: ``*`` stands for any letters, ``?`` for one."""
Rate = Annotated[int, Field(ge=100, le=10_000)]
Quota = Annotated[int, Field(ge=1, lt=2**63)]


class KeyDraft(Part):
    """A key to be made. ``roles`` are names for sets of ``scopes``; the key gets both. ``rate``: requests a minute;
    ``bytes_a_day``, ``frames_a_day``: quotas; null: the site's default, no quota."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    roles: tuple[Role, ...] = ()
    scopes: tuple[Scope, ...] = ()
    cameras: Annotated[tuple[CamerasPattern, ...], Field(max_length=1000)] = ()
    purpose: Text
    expires_at: Moment | None = None
    rate: Rate | None = None
    bytes_a_day: Quota | None = None
    frames_a_day: Quota | None = None

    @model_validator(mode="after")
    def _opens_something(self) -> Self:
        if not self.granted:
            raise ValueError("roles, scopes: name one at least")
        if Scope.CAMERAS_READ in self.granted and not self.cameras:
            raise ValueError('cameras: name those that the key opens, or "*" for all')
        return self

    @property
    def granted(self) -> frozenset[Scope]:
        return frozenset(self.scopes).union(*(ROLES[role] for role in self.roles))


class KeyShown(Part):
    """A key without its secret. ``prefix``: how the key begins. ``made_by``: the caller that made it."""

    id: str
    prefix: str
    name: str
    scopes: list[Scope]
    cameras: list[str]
    purpose: str
    rate: int | None
    bytes_a_day: int | None
    frames_a_day: int | None
    made_by: str
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    used_at: AwareDatetime | None


class KeyMade(KeyShown):
    """``key``: shown once and never again."""

    key: str
