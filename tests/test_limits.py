"""Rate limits: in memory, shared through a real Redis, and while that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from redis_server import Redis

from sfumato.agents.access.limits import FAILURES, Left, Limits
from sfumato.agents.broker import free_port
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import bearer, client


@pytest.fixture
def redis(tmp_path) -> Iterator[Redis]:
    with Redis(tmp_path) as server:
        yield server


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path) as made:
        yield made


def make(app: FastAPI, rate: int | None) -> str:
    return app.state.keys.create("x", [Scope.CAMERAS_READ], purpose="x", rate=rate).secret


def test_a_key_has_its_rate_and_is_told_what_is_left(app):
    caller = client(app, make(app, 100))
    answers = [caller.get("/v1/cameras") for _ in range(100)]
    assert {answer.status_code for answer in answers} == {200}
    answers.append(next(a for a in (caller.get("/v1/cameras") for _ in range(1000)) if a.status_code != 200))
    first, last = answers[0].headers, answers[-1].headers
    assert (first["ratelimit-limit"], first["ratelimit-remaining"]) == ("100", "99")
    assert first["ratelimit-policy"] == "100;w=60"
    assert "retry-after" not in first
    assert answers[-1].status_code == 429
    assert last["ratelimit-remaining"] == "0"
    assert 50 <= int(last["ratelimit-reset"]) <= 60
    assert int(last["retry-after"]) >= 1
    assert "100 requests a minute" in answers[-1].json()["detail"]
    assert client(app, make(app, 100)).get("/v1/cameras").status_code == 200  # another key's is its own


def test_the_usual_rate_is_a_setting(tmp_path):
    with application(tmp_path, rate_limit=100) as app:
        assert client(app, make(app, None)).get("/v1/cameras").headers["ratelimit-limit"] == "100"
        assert client(app, make(app, 10_000)).get("/v1/cameras").headers["ratelimit-limit"] == "10000"


def test_an_address_that_shows_wrong_keys_waits_and_nobody_else_does(app):
    good = make(app, 10_000)
    guesser = client(app, address="198.51.100.7")
    statuses = [guesser.get("/v1/cameras", headers=bearer(f"sfumato_{n}")).status_code for n in range(FAILURES + 10)]
    assert statuses[: FAILURES - 1] == [401] * (FAILURES - 1)
    assert statuses[-1] == 429
    assert guesser.post("/v1/session", json={"key": "sfumato_x"}).status_code == 429
    assert guesser.get("/v1/cameras", headers=bearer("a.b.c")).status_code == 429
    assert guesser.get("/v1/cameras").status_code == 401  # nothing was shown
    for n in range(FAILURES + 10):  # from the many addresses of one IPv6 network
        last = client(app, address=f"2001:db8::{n:x}").get("/v1/cameras", headers=bearer(f"sfumato_{n}"))
    assert last.status_code == 429
    assert client(app, good, address="198.51.100.8").get("/v1/cameras").status_code == 200
    assert guesser.get("/v1/cameras", headers=bearer(good)).status_code == 200  # known a moment ago


def ask(settings: list[Settings], caller: str, times: int, rate: int = 100) -> list[Left]:
    """So many requests of a caller to several bridges in turn."""

    async def run() -> list[Left]:
        bridges = [Limits(each) for each in settings]
        return [await bridges[n % len(bridges)].take(caller, rate) for n in range(times)]

    return asyncio.run(run())


def test_bridges_share_a_bucket_through_redis(redis):
    settings = Settings(rate_limit_url=redis.url)
    taken = ask([settings, settings], "key:x", 140)
    assert 100 <= sum(not left.limited for left in taken) < 125
    assert ask([settings], "key:x", 1)[0].remaining < 25  # it outlives the bridges
    assert not ask([settings], "key:y", 1)[0].limited
    alone = ask([Settings(), Settings()], "key:x", 140)
    assert not any(left.limited for left in alone)


def test_without_redis_each_bridge_limits_by_itself_and_says_so(redis, caplog, monkeypatch):
    monkeypatch.setattr("sfumato.agents.access.limits.STORE_PAUSE", 0.0)

    async def run() -> None:
        limits = Limits(Settings(rate_limit_url=redis.url))
        assert not (await limits.take("key:x", 100)).limited
        redis.stop()
        taken = [await limits.take("key:x", 100) for _ in range(130)]
        assert 100 <= sum(not left.limited for left in taken) < 130
        assert taken[-1].limited
        redis.start()
        assert (await limits.take("key:x", 100)).remaining > 90  # Redis counts again; its bucket is new

    asyncio.run(run())
    assert any("SFUMATO_RATE_LIMIT_URL" in record.getMessage() for record in caplog.records)


def test_while_redis_is_away_it_is_not_asked_for_each_request(caplog):
    settings = Settings(rate_limit_url=f"redis://127.0.0.1:{free_port()}/0")
    assert sum(not left.limited for left in ask([settings], "key:x", 50)) == 50
    assert len([record for record in caplog.records if "SFUMATO_RATE_LIMIT_URL" in record.getMessage()]) == 1


def test_every_fraction_of_a_second_counts(monkeypatch):
    """100 a minute are 100, not 60: a bucket that is filled once a second would lose the fractions."""
    now = [1000.0]
    monkeypatch.setattr("throttled.utils.now_mono_f", lambda: now[0])

    async def run() -> int:
        limits, passed = Limits(Settings()), 0
        for _ in range(600):
            passed += not (await limits.take("x", 100)).limited
            now[0] += 0.3  # 200 a minute for three minutes
        return passed

    assert asyncio.run(run()) == pytest.approx(100 + 3 * 100, abs=2)
