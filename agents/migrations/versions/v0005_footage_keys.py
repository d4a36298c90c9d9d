"""The keys of raw footage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0005_footage_keys"
down_revision: str | None = "v0004_jobs"


def upgrade() -> None:
    op.create_table(
        "footage_keys",
        sa.Column("camera", sa.String(64), primary_key=True),
        sa.Column("hour", Instant, primary_key=True),
        sa.Column("master", sa.String(32), nullable=False),
        sa.Column("wrapped", sa.LargeBinary),
        sa.Column("shredded_at", Instant),
    )
