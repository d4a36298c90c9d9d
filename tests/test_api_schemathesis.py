"""Requests made up from the OpenAPI document, to a bridge on the embedded broker, with all checks of schemathesis.

A few hundred here; ``ops/bench_api_cases.py`` sends 10,000 and more.
"""

from __future__ import annotations

import json
from pathlib import Path

import api_cases
import pytest

from sfumato.agents import policies
from sfumato.agents.web import openapi
from tests.test_bridge import Bridge, frame
from tests.test_policy import named

PUBLISHED = Path(__file__).parents[1] / "docs" / "openapi.json"


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_no_made_up_request_breaks_the_api(topics):
    with Bridge(topics) as bridge:
        bridge.publish(frame("north", 0))
        policies.publish(topics, [named("north", 1)])
        bridge.wait_until(lambda: "north" in bridge.shown())
        assert bridge.get("/openapi.json").json() == json.loads(PUBLISHED.read_text())
        report = api_cases.run(bridge.address, bridge.key, examples=6, coverage=False)
    assert report.errors == []
    assert report.failures == {}
    assert report.cases >= 300
    described = openapi.operations(json.loads(PUBLISHED.read_text()))
    assert report.operations == {f"{method.upper()} {path}" for path, method, _ in described}
    assert sum(number for status, number in report.statuses.items() if status < 300) > report.cases / 10
