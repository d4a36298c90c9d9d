"""The OpenAPI document: whole, and with an example of everything."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from sfumato.agents.api.examples import example
from sfumato.agents.api.routes import RESOURCES, ROUTERS, ROUTES
from sfumato.agents.web import formats, openapi

PUBLISHED = json.loads((Path(__file__).parents[1] / "docs" / "openapi.json").read_text())
OPERATIONS = [
    pytest.param(path, operation, id=f"{method} {path}") for path, method, operation in openapi.operations(PUBLISHED)
]


def test_every_route_is_described():
    routes = [r for router in ROUTERS for r in router.routes if getattr(r, "include_in_schema", False)]
    assert {route.path_format for route in routes} == set(PUBLISHED["paths"])
    assert [r.path for r in routes if r not in ROUTES] == [], "make the router with Negotiated"


def test_operation_ids_are_unique():
    ids = Counter(operation["operationId"] for _, _, operation in openapi.operations(PUBLISHED))
    assert [id for id, count in ids.items() if count > 1] == []
    assert all(id.isidentifier() and "_" not in id for id in ids)


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_operation_says_all_it_should(path, operation):
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    answers = operation["responses"]
    assert "500" in answers
    if operation.get("security"):
        assert {"401", "403", "429"} <= answers.keys()
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        if formats.JSON in content:
            assert list(content)[:3] == list(formats.RESOURCE)
        assert content
        assert {"400", "413", "415", "422"} <= answers.keys()
    for status, answer in answers.items():
        content = answer.get("content", {})
        if status[0] in "45":
            assert set(content) == {"application/problem+json", "application/problem+xml"}
        elif formats.JSON in content:
            assert set(formats.RESOURCE) <= content.keys()
            assert content[formats.JSON]["example"]


@pytest.mark.parametrize("model", RESOURCES, ids=lambda model: model.__name__)
def test_each_resource_has_an_example_that_is_valid(model):
    shown = example(model)
    assert shown is not None, "add one to agents/api/examples.py"
    jsonschema.validate(shown, model.model_json_schema(mode="serialization", by_alias=True))
    for kind in formats.RESOURCE:
        assert formats.decode(model, formats.encode(model, shown, kind), kind) == shown
