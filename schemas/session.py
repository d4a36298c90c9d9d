"""Who the caller is, as the API tells them; and what a page sends to sign in."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from sfumato.schemas.part import Part
from sfumato.schemas.scope import Scope


class SignIn(Part):
    """``key``: an API key."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


class Session(Part):
    """``caller`` names them in audit and usage. ``cameras``: ids and patterns. ``expires_at``: when a session begun
    by this answer ends; null in others."""

    caller: str
    scopes: list[Scope]
    cameras: list[str]
    purpose: str
    expires_at: AwareDatetime | None = None
