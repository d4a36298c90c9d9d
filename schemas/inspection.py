"""How a camera's published frames are looked at again, and how many leaks it may have; a part of the policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sfumato.schemas.part import Part


class Inspection(Part):
    """``per_minute``: frames of the camera looked at a second time, per minute, while nothing is found; 0: none.
    ``leak_budget``: finds within an hour that the camera may have; with one more it is fully masked until a person
    lifts that. 0: the first find does it."""

    per_minute: Annotated[float, Field(ge=0, le=600)] = 4.0
    leak_budget: Annotated[int, Field(ge=0, le=1_000_000)] = 20
