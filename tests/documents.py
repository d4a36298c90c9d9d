"""Any JSON document of a model's shape, for properties that hold for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sfumato.agents.web.shapes import Choice, Kind, Many, Record, Shape, Single, Table

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SINGLES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: TEXTS,
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.MOMENT: st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    Kind.DAY: st.dates().map(str),
    Kind.TIME: st.times().map(str),
}


def documents(shape: Shape, depth: int = 0) -> st.SearchStrategy[Any]:
    match shape:
        case Single(_, names) if names:
            return st.sampled_from(names)
        case Single(kind):
            return SINGLES[kind]
        case Many(item):
            return st.lists(documents(item, depth), max_size=3)
        case Table(value):
            return st.dictionaries(TEXTS, documents(value, depth), max_size=3)
        case Choice(_, by, options):
            each = [documents(record, depth + 1).map(lambda d, n=name: {**d, by: n}) for name, record in options]
            return st.one_of(each)
        case Record():
            fields = {}
            for field in shape.fields:
                if field.nullable and depth > 3:  # a model may hold itself
                    fields[field.name] = st.none()
                    continue
                value = documents(field.shape, depth + 1)
                fields[field.name] = st.none() | value if field.nullable else value
            return st.fixed_dictionaries(fields)
