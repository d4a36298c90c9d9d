"""The results of the fault drills, as ``make drills`` prints them on its last line."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Drill(BaseModel):
    """``leaked``: frames in the output with an unmasked marker. ``recovery_s``: None where nothing had to recover."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(max_length=200)]
    lost: Count
    unaccounted: Count
    duplicates: Count
    leaked: Count
    recovery_s: float | None = None

    @property
    def passed(self) -> bool:
        return self.lost == self.unaccounted == self.leaked == 0


class Drills(BaseModel):
    """Further fields are allowed: what the drills add does not concern the dossier."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    drills: tuple[Drill, ...]
    at: datetime | None = None
    broker: str | None = None
