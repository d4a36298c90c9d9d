"""Uploads and their sealed segments."""

from __future__ import annotations

revision = "v0003_uploads"
down_revision: str | None = "v0002_idempotency"


def upgrade() -> None:
    pass
