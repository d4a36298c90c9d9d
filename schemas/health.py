"""Whether the bridge works."""

from __future__ import annotations

from sfumato.schemas.part import Part


class Health(Part):
    """``status``: ``ok`` or ``ready``; where it is neither, the answer is a problem."""

    status: str
