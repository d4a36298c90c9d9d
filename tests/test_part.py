"""Moments, days and times of day as people write them; numbers, also as text, are none."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from sfumato.schemas.part import Day, Moment, TimeOfDay


@pytest.mark.parametrize("kind", [Moment, Day, TimeOfDay])
@pytest.mark.parametrize("value", [0, 2027, 0.5, "0", "2027", "-1.5", "1e3", " 7 "])
def test_numbers_are_refused(kind, value):
    with pytest.raises(ValidationError, match="a number; write"):
        TypeAdapter(kind).validate_python(value)


def test_what_people_write_is_read():
    assert TypeAdapter(Moment).validate_python("2027-01-01T00:00:00+01:00").year == 2027
    assert TypeAdapter(Day).validate_python("2027-01-02").day == 2
    assert TypeAdapter(TimeOfDay).validate_python("22:00").hour == 22
