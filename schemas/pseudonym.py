"""Reversing a pseudonym: what is asked and what is answered."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from sfumato.schemas.metadata import MetadataField
from sfumato.schemas.part import Part, Text


class Reveal(Part):
    """``recipient`` and ``period`` as they were when the pseudonym was made: 2026, 2026-11, 2026-W48 or 2026-11-25.
    ``reason``: why it must be known whose it is; audited."""

    pseudonym: Annotated[str, Field(min_length=1, max_length=1000)]
    recipient: Text
    period: Annotated[str, Field(max_length=10)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=500)]


class Revealed(Part):
    field: MetadataField
    value: str
