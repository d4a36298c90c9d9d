"""Jobs, their files, parts and deliveries."""

from __future__ import annotations

revision = "v0004_jobs"
down_revision: str | None = "v0003_uploads"


def upgrade() -> None:
    pass
