"""The contracts of finds and suspensions, and their published JSON Schemas."""

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from sfumato.agents.suspensions import suspend
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.find import Find
from sfumato.schemas.suspension import Suspension
from tests.test_inspect import found

DOCS = Path(__file__).parent.parent / "docs"


def schema(name):
    return json.loads((DOCS / f"{name}.schema.json").read_text())


@pytest.mark.parametrize(("name", "example"), [("find", found(7, 2)), ("suspension", suspend("north", "why", 3))])
def test_round_trip_and_published_schema(name, example):
    key, value, headers = example.to_message()
    assert type(example).from_message(key, value) == example
    jsonschema.validate(json.loads(value), schema(name))
    assert schema(name) == type(example).model_json_schema(by_alias=True, mode="serialization"), "run `make schemas`"
    assert dict(headers)["ce_type"] == f"sfumato.{name}.v1".encode()


def test_a_finds_identity_is_its_event():
    find = found(7, 2)
    assert find.id == "north/1/7/centerface/2"
    assert dict(find.to_message().headers)["ce_id"] == find.id.encode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"published_at": datetime(2026, 11, 24).isoformat()}, "published_at"),
        ({"camera": "North"}, "camera"),
        ({"pixels": "x"}, "pixels"),
        ({"score": 1.5}, "score"),
    ],
)
def test_a_find_that_breaks_the_contract_is_refused(changes, named):
    value = json.dumps({**json.loads(found().to_message().value), **changes}).encode()
    with pytest.raises(EnvelopeError, match=named):
        Find.from_message(b"north", value)


def test_keys_must_agree():
    with pytest.raises(EnvelopeError, match="key"):
        Find.from_message(b"south", found().to_message().value)
    record = suspend("north", "why")
    assert record.key == f"north/{int(record.at.timestamp() * 1000)}"
    with pytest.raises(EnvelopeError, match="key"):
        Suspension.from_message(b"north", record.to_message().value)
    at = datetime(2026, 11, 24, tzinfo=UTC)
    assert record.model_copy(update={"at": at}).key == "north/1795478400000"
