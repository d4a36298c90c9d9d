"""The audit events over the API, on real brokers: every event once, in order, by filter, and whose they are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from sfumato.agents import search
from sfumato.agents.settings import Settings
from sfumato.agents.web import paging
from sfumato.schemas.audit import AuditEvent, Origin
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT
from tests.calling import bearer, secret
from tests.test_bridge import Bridge


@pytest.fixture
def bridge(topics: Settings) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


def event(number: int, camera: str | None, **changes: object) -> AuditEvent:
    masked = changes.get("outcome", Outcome.MASKED) is not Outcome.DROPPED
    fields = {
        "id": f"{camera}/{number}",
        "origin": Origin(topic="frames.raw", partition=0, offset=number),
        "camera": camera,
        "epoch": None if camera is None else 1,
        "sequence": None if camera is None else number,
        "outcome": Outcome.MASKED,
        "audited_at": datetime.now(UTC).replace(microsecond=0),
        "input_bytes": 9,
        "input_sha256": "0" * 64,
        "output_sha256": "1" * 64 if masked else None,
        **changes,
    }
    return AuditEvent.model_validate(fields)


CAMERAS = ("north", "south", "east", "west")


def published(bridge: Bridge, count: int = 40) -> list[AuditEvent]:
    """Events of four cameras in two partitions, one message after another, each camera's third a refusal."""
    refused = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY, "detail": "=HYPERLINK()"}
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=count)
    times = [begin + timedelta(seconds=n) for n in range(count)]
    events = [event(n, CAMERAS[n % 4], audited_at=at, **(refused if n % 3 == 0 else {})) for n, at in enumerate(times)]
    for each in events:
        bridge.send(AUDIT, each.to_message())
    return events


def every(api: httpx.Client, **params: object) -> list[str]:
    """The ids on all pages."""
    seen: list[str] = []
    while True:
        page = api.get("/v1/audit", params=params)
        assert page.status_code == 200, page.text
        seen += [each["id"] for each in page.json()["items"]]
        if page.json()["next"] is None:
            return seen
        params["cursor"] = page.json()["next"]


def call(bridge: Bridge, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=f"http://{bridge.address}", timeout=40, headers=bearer(key or bridge.key))


def test_pages_hold_every_event_once_in_order_and_by_filter(bridge):
    with call(bridge) as api:
        assert every(api) == []
        events = published(bridge)
        ids = [each.id for each in events]
        for limit in (7, 100):
            assert every(api, limit=limit) == ids
        assert every(api, camera="south", limit=3) == [i for i in ids if i.startswith("south/")]
        assert every(api, outcome="fully_masked") == ids[::3]
        assert every(api, reason="no_policy", camera="north") == [each for each in ids[::3] if each.startswith("north")]
        assert every(api, outcome="dropped") == []
        moments = {"from": events[10].audited_at.isoformat(), "to": events[20].audited_at.isoformat()}
        assert every(api, limit=4, **moments) == ids[10:20]
        later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        assert every(api, **{"from": later}) == []
        last = api.get("/v1/audit", params={"limit": 39}).json()
        bridge.send(AUDIT, event(99, "north").to_message())
        assert every(api, cursor=last["next"]) == [ids[39], "north/99"]


def test_a_page_looks_at_so_many_events_and_goes_on(bridge, monkeypatch):
    monkeypatch.setattr(search, "SCANNED", 5)
    monkeypatch.setattr(search, "WAITING", 3)
    events = published(bridge)
    with call(bridge) as api:
        first = api.get("/v1/audit", params={"camera": "west", "limit": 10}).json()
        assert len(first["items"]) < 10
        assert first["next"] is not None
        assert every(api, camera="west", limit=10) == [each.id for each in events if each.camera == "west"]


def test_callers_see_their_cameras_alone_and_unreadable_frames_only_who_sees_all(bridge, topics):
    events = published(bridge, 12)
    bridge.send(AUDIT, event(50, None, outcome=Outcome.DROPPED, reason=Reason.INVALID_ENVELOPE).to_message())
    with call(bridge) as api:
        assert "None/50" in every(api)
    with call(bridge, secret(topics, cameras=["n*", "east"])) as api:
        assert every(api) == [each.id for each in events if each.camera in ("north", "east")]
        assert every(api, camera="south") == []
        assert "south" not in api.get("/v1/audit:export").text


def test_the_export_is_whole_as_lines_or_csv(bridge, monkeypatch):
    monkeypatch.setattr("sfumato.agents.api.audit.EXPORTED", 7)
    events = published(bridge)
    with call(bridge) as api:
        lines = api.get("/v1/audit:export")
        assert lines.headers["content-type"] == "application/x-ndjson"
        assert [AuditEvent.model_validate(json.loads(line)) for line in lines.text.splitlines()] == events
        table = api.get("/v1/audit:export", headers={"Accept": "text/csv"}, params={"camera": "north"})
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [row["id"] for row in rows] == [each.id for each in events if each.camera == "north"]
        assert rows[0]["detail"] == "'=HYPERLINK()"  # a spreadsheet must not compute it
        assert rows[1]["detail"] == ""
        assert api.get("/v1/audit:export", headers={"Accept": "image/png"}).status_code == 406


def test_bad_questions_and_broken_messages(bridge):
    with call(bridge) as api:
        key, _, headers = event(1, "north").to_message()
        bridge.send(AUDIT, Message(key, b"not json", headers), event(2, "north").to_message())
        assert every(api) == ["north/2"]
        wrong = api.get("/v1/audit", params={"from": "2027-01-02T00:00:00Z", "to": "2027-01-01T00:00:00Z"})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "to")
        assert api.get("/v1/audit", params={"cursor": "e30"}).status_code == 400
        assert api.get("/v1/audit", params={"from": "yesterday"}).status_code == 422


def test_without_the_topic_it_is_unavailable(settings):
    with Bridge(settings, until="/healthz") as bridge, call(bridge) as api:
        for path in ("/v1/audit", "/v1/audit:export"):
            assert api.get(path).status_code == 503


def test_a_cursor_beyond_the_end_of_a_partition_has_nothing_after_it(bridge):
    """As after the topic was made anew; nobody is given one otherwise."""
    published(bridge, 8)
    with call(bridge) as api:
        beyond = paging.write(search.Positions(offsets={0: 4000, 1: 4000}))
        page = api.get("/v1/audit", params={"cursor": beyond})
        assert (page.status_code, page.json()) == (200, {"items": [], "next": None})
