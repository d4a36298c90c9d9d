"""An upload as the API shows it."""

from __future__ import annotations

from datetime import datetime

from sfumato.schemas.part import Part


class UploadStatus(Part):
    """``offset``: bytes that have arrived for good. ``length``: None while it was not said. ``content_type``: by its
    content, once it is ``complete``; only then a job can name it."""

    id: str
    filename: str | None
    length: int | None
    offset: int
    complete: bool
    content_type: str | None
    created_at: datetime
    expires_at: datetime
