"""What is wrong with a policy or a floor, in words: the field, and what to do about it. Never the input itself."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

POLICIES = "docs/policies.md"

MISSING = {
    "camera": 'say whose policy it is: a camera\'s id, a pattern as "north-*", or "*" for all others',
    "version": "start with 1 and raise it with each change",
    "controller": "name who decides why and how people are filmed (GDPR Article 4(7))",
    "purpose": "say what the pictures are for (GDPR Article 5(1)(b))",
    "lawful_basis": "without one nothing may be processed: name a letter of GDPR Article 6(1) (docs/policies.md)",
    "dpia": "refer to the impact assessment, or say why none is needed (GDPR Article 35)",
    "retention_hours": "say for how long anonymized frames may be kept",
    "targets": 'say what to mask, as targets.face = { mask = "mosaic" }',
}
"""By field, what to write where it is missing."""


def remedies(error: ValidationError) -> str:
    """One line: each field at fault and its remedy."""
    return "; ".join(f"{field_of(e)}: {remedy(e)}" for e in error.errors(include_input=False, include_url=False))


def field_of(error: ErrorDetails) -> str:
    """The field at fault."""
    # pydantic adds "[key]" where a name is at fault, not what stands under it
    return ".".join(str(part) for part in error["loc"] if part != "[key]") or "value"


def remedy(error: ErrorDetails, docs: str = POLICIES) -> str:
    """What is wrong with it and, after a semicolon, what to do. ``docs``: where the fields are described."""
    kind, place = error["type"], error["loc"]
    if kind == "missing" or (kind == "too_short" and place[-1:] == ("targets",)):
        known = MISSING if docs == POLICIES else {}
        return f"missing; {known.get(str(place[-1]), f'give it ({docs})')}"
    if kind == "extra_forbidden":
        return f"unknown key; take it out, or look up its name in {docs}"
    if "polygon" in place and kind in ("less_than_equal", "greater_than_equal"):
        return "outside the picture; corners are shares, from 0 to 1, of its width and height"
    if "polygon" in place and kind == "too_short":
        return "too few corners; a zone has at least 3"
    if kind == "enum":
        return f"unknown name; one of {error['ctx']['expected'].replace(' or ', ', ')}"
    if kind.startswith("datetime_"):
        return "not a moment; write it as 2027-01-01T00:00:00+01:00"
    if kind.startswith("time_"):
        return "not a time of day; write it as 22:00"
    if kind == "timezone_aware":
        return "without time zone; write its offset from UTC, as 2027-01-01T00:00:00+01:00"
    if kind == "string_pattern_mismatch" and place[-1:] == ("camera",):
        return "not a camera's id or pattern; small letters, digits, - and _, and * or ? in a pattern"
    if kind == "union_tag_invalid":  # pydantic's own text holds the input
        return f"{error['ctx']['discriminator']}: unknown name; one of {error['ctx']['expected_tags']}"
    if kind == "uuid_parsing":
        return "not a UUID; write it as 123e4567-e89b-12d3-a456-426614174000"
    return error["msg"].removeprefix("Value error, ")
