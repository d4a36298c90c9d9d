"""Subject requests and who approved them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0006_subject_requests"
down_revision: str | None = "v0005_footage_keys"


def upgrade() -> None:
    op.create_table(
        "subject_requests",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("requester", sa.String(1000), nullable=False),
        sa.Column("made_by", sa.String(1000)),
        sa.Column("camera", sa.String(64), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("draft", sa.JSON, nullable=False),
        sa.Column("target", sa.String(20)),
        sa.Column("box", sa.JSON, nullable=False),
        sa.Column("origin", sa.JSON, nullable=False),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("ended_at", Instant),
        sa.Column("error", sa.String(500)),
        sa.Column("gone_at", Instant),
        sa.Column("upload", sa.String(32)),
        sa.Column("clip", sa.JSON),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("leased_until", Instant),
        sa.Column("worker", sa.String(100)),
    )
    for column in ("requester", "state", "expires_at"):
        op.create_index(f"ix_subject_requests_{column}", "subject_requests", [column])
    op.create_table(
        "subject_approvals",
        sa.Column("request", sa.String(32), sa.ForeignKey("subject_requests.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("caller", sa.String(1000), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("made_by", sa.String(1000)),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("note", sa.String(500), nullable=False),
        sa.Column("at", Instant, nullable=False),
    )
