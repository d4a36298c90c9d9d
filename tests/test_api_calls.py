"""The calls of the API over the API, on real brokers: who called, in order, by filter, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from sfumato.agents.settings import Settings
from sfumato.schemas.call import Call
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import CALLS
from tests.calling import bearer, secret
from tests.test_bridge import Bridge

CALLERS = ("key:a", "key:b", None)


@pytest.fixture
def bridge(topics: Settings) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


def recorded(bridge: Bridge, count: int = 12) -> list[Call]:
    """Calls by three callers in turn, one a second up to now."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=count)
    calls = [
        Call(
            id=f"call-{n}",
            at=begin + timedelta(seconds=n),
            caller=CALLERS[n % 3],
            purpose="tests" if CALLERS[n % 3] else None,
            method="GET" if n % 2 else "PUT",
            route="/v1/policies/{name}",
            path=f"/v1/policies/{n}",
            status=403 if n == 5 else 200,
        )
        for n in range(count)
    ]
    bridge.send(CALLS, *(call.to_message() for call in calls))
    return calls


def found(api: httpx.Client, **params: object) -> list[str]:
    """The ids on all pages, without the searches themselves."""
    seen: list[str] = []
    while True:
        page = api.get("/v1/calls", params=params)
        assert page.status_code == 200, page.text
        seen += [each["id"] for each in page.json()["items"] if each["id"].startswith("call-")]
        if page.json()["next"] is None:
            return seen
        params["cursor"] = page.json()["next"]


def caller(bridge: Bridge, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=f"http://{bridge.address}", timeout=40, headers=bearer(key or bridge.key))


def test_every_call_once_in_order_and_by_filter(bridge):
    calls = recorded(bridge)
    ids, moment = [call.id for call in calls], calls[9].at.isoformat()
    with caller(bridge) as api:
        assert found(api, limit=5) == ids
        assert found(api, of="key:b") == ids[1::3]
        assert found(api, status=403) == ["call-5"]
        assert found(api, method="PUT", of="key:a") == ids[0::6]
        assert found(api, route="/v1/policies/{name}", limit=7) == ids
        assert found(api, route="/v1/jobs") == []
        assert found(api, **{"from": moment}) == ids[9:]
        assert found(api, to=moment) == ids[:9]
        wrong = api.get("/v1/calls", params={"from": "2027-01-02T00:00:00Z", "to": "2027-01-01T00:00:00Z"})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "to")
        assert api.get("/v1/calls", params={"cursor": "e30"}).status_code == 400


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_who_does_not_see_all_cameras_sees_their_own_calls_alone(bridge, topics):
    recorded(bridge)
    key = secret(topics, Scope.AUDIT_READ, cameras=["north"])
    with caller(bridge, key) as api:
        assert found(api) == []
        mine = api.get("/v1/calls").json()["items"]
        assert {each["caller"] for each in mine} == {f"key:{key.split('_')[1]}"}
    with caller(bridge, secret(topics, Scope.CAMERAS_READ)) as api:
        assert api.get("/v1/calls").status_code == 403


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_without_the_topic_it_is_unavailable(settings):
    with Bridge(settings, until="/healthz") as bridge, caller(bridge) as api:
        answer = api.get("/v1/calls")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
