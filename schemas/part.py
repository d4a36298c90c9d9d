"""What every part of a contract has in common: it cannot be changed, and a field that it does not know is an error."""

from __future__ import annotations

import re
from datetime import date, time
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

_NUMBER = re.compile(r"[+-]?[0-9._]+(e[+-]?[0-9_]+)?", re.IGNORECASE)

Text = Annotated[str, Field(min_length=1, max_length=500)]
Relative = Annotated[float, Field(ge=0, le=1)]


def _not_a_number(value: object) -> object:
    """pydantic would read 22 as 22 seconds past midnight, and 2027, also as text, as a moment of 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        raise ValueError("a number; write a moment as 2027-01-01T00:00:00+01:00, a time of day as 22:00")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_not_a_number)]
Day = Annotated[date, BeforeValidator(_not_a_number)]
TimeOfDay = Annotated[time, BeforeValidator(_not_a_number)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
