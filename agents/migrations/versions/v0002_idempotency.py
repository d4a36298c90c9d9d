"""Answers kept for Idempotency-Key."""

from __future__ import annotations

revision = "v0002_idempotency"
down_revision: str | None = "v0001_keys"


def upgrade() -> None:
    pass
