"""Jobs, their files, parts and deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0004_jobs"
down_revision: str | None = "v0003_uploads"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(500), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("error", sa.String(500)),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
        sa.Column("ended_at", Instant),
        sa.Column("expires_at", Instant),
        sa.Column("served_at", Instant, nullable=False),
        sa.Column("announced_at", Instant),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("cleared", sa.Boolean, nullable=False),
    )
    op.create_index("ix_jobs_owner", "jobs", ["owner"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "job_files",
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("upload", sa.String(32)),
        sa.Column("remote", sa.Boolean, nullable=False),
        sa.Column("media_type", sa.String(40)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("frames_total", sa.Integer),
        sa.Column("bytes_before", sa.BigInteger),
        sa.Column("sha256_before", sa.String(64)),
        sa.Column("cut_short", sa.String(500)),
        sa.Column("error", sa.String(500)),
        sa.Column("remedy", sa.String(500)),
        sa.Column("result", sa.JSON),
        sa.Column("blob", sa.String(200)),
    )
    op.create_index("ix_job_files_upload", "job_files", ["upload"])
    op.create_table(
        "parts",
        sa.Column("job", sa.String(32), primary_key=True),
        sa.Column("file", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("span", sa.JSON),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("account", sa.JSON),
        sa.Column("blob", sa.String(200)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", Instant, nullable=False),
        sa.Column("leased_until", Instant),
        sa.Column("worker", sa.String(100)),
        sa.ForeignKeyConstraint(["job", "file"], ["job_files.job", "job_files.number"], ondelete="CASCADE"),
    )
    op.create_index("ix_parts_done", "parts", ["done"])
    op.create_table(
        "deliveries",
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("destination", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("file", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("error", sa.String(500)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", Instant, nullable=False),
        sa.Column("leased_until", Instant),
        sa.Column("worker", sa.String(100)),
    )
    op.create_index("ix_deliveries_state", "deliveries", ["state"])
