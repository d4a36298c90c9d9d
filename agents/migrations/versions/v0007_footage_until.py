"""Until when a subject request's footage lies on Kafka."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sfumato.agents.database import Instant

revision = "v0007_footage_until"
down_revision: str | None = "v0006_subject_requests"


def upgrade() -> None:
    op.add_column("subject_requests", sa.Column("footage_until", Instant))
