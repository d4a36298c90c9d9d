"""Answers kept for Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0002_idempotency"
down_revision: str | None = "v0001_keys"


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("caller", sa.String(500), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("operation", sa.String(1000), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.LargeBinary),
        sa.Column("expires_at", Instant, nullable=False, index=True),
    )
