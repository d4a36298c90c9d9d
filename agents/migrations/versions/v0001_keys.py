"""API keys, sessions begun with them, and usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0001_keys"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("cameras", sa.JSON, nullable=False),
        sa.Column("purpose", sa.String(1000), nullable=False),
        sa.Column("rate", sa.Integer),
        sa.Column("bytes_a_day", sa.BigInteger),
        sa.Column("frames_a_day", sa.BigInteger),
        sa.Column("made_by", sa.String(300), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("expires_at", Instant),
        sa.Column("revoked_at", Instant),
        sa.Column("used_at", Instant),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", sa.String(16), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("caller", sa.String(300), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("frames", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
    )
