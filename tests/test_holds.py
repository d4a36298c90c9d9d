"""Keys of footage that an open subject request names are not shredded, unless somebody says so on the record."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from sfumato.agents.cli import main
from sfumato.agents.footage import stores
from sfumato.agents.footage.shredding import Shredder
from sfumato.agents.footage.stores import KeyStore
from sfumato.agents.settings import Settings
from sfumato.agents.subjects import disclosures
from sfumato.agents.subjects.holds import HoldError, Holds
from sfumato.schemas.disclosure import Act, Disclosure
from sfumato.schemas.subject_request import SubjectRequest, SubjectState
from sfumato.schemas.topics import DISCLOSURES
from tests.ingesting import read_topic
from tests.requesting import ASKS, FIRST, Office, office

HOUR = stores.hour_of(datetime.now(UTC) - timedelta(hours=30))
"""Long ago, so that by age its key is to be shredded."""
BEFORE, AFTER = HOUR - timedelta(hours=1), HOUR + timedelta(hours=1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Office]:
    with office(tmp_path) as made:
        yield made


@pytest.fixture
def store(desk: Office) -> KeyStore:
    """Three hours of two cameras have keys."""
    store = stores.make(desk.settings)
    for camera in ("north", "south"):
        for hour in (BEFORE, HOUR, AFTER):
            store.make(camera, hour)
    return store


def ask(desk: Office, since: timedelta = timedelta(minutes=5), seconds: float = 10.0) -> SubjectRequest:
    at = HOUR + since
    return desk.create(captured_at=at, since=at, until=at + timedelta(seconds=seconds))


def held(desk: Office) -> list[tuple[str, datetime, str]]:
    return [(hold.camera, hold.hour, hold.request.id) for hold in Holds(desk.settings).look()]


def living(store: KeyStore, camera: str = "north") -> list[datetime]:
    return [found.hour for found in store.hours(camera) if found.shredded_at is None]


def keys(settings: Settings, *arguments: str) -> Any:
    environment = {
        "SFUMATO_STATE_DIR": str(settings.state_dir),
        "SFUMATO_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "SFUMATO_TOPIC_PREFIX": settings.topic_prefix,
    }
    return CliRunner().invoke(main, ["keys", "shred", *arguments], env=environment)


BY_HAND = ("--camera", "north", "--before", (AFTER + timedelta(hours=1)).isoformat(), "--yes")


def test_a_request_holds_the_hours_that_its_clip_is_made_of_while_it_is_open(desk):
    request = ask(desk)
    assert held(desk) == [("north", HOUR, request.id)]
    for state in (SubjectState.APPROVED, SubjectState.READY):
        desk.set(request, state=state)
        assert len(held(desk)) == 1
    desk.set(request, expires_at=datetime.now(UTC))
    assert held(desk) == []
    refused, withdrawn = ask(desk), ask(desk)
    desk.decide(refused, FIRST, "refuse")
    desk.requests.withdraw(withdrawn.id, ASKS)
    assert held(desk) == []
    early = ask(desk, timedelta(seconds=19))  # the keyframe may lie in the hour before
    late = ask(desk, timedelta(minutes=59), 58.5)
    assert held(desk) == [
        ("north", BEFORE, early.id),
        ("north", HOUR, early.id),
        ("north", HOUR, late.id),
        ("north", AFTER, late.id),
    ]


def test_the_ingestor_keeps_what_is_held_and_shreds_the_rest_by_age(desk, store, caplog):
    request = ask(desk)
    stopping = threading.Event()
    stopping.set()
    Shredder(store, desk.settings, stopping).run()
    assert (living(store), living(store, "south")) == ([HOUR], [])
    assert f"a key that has expired is kept: north, {stores.named(HOUR)}: subject request {request.id}" in caplog.text
    desk.requests.withdraw(request.id, ASKS)
    Shredder(store, desk.settings, stopping).run()
    assert living(store) == []


def test_where_the_database_does_not_answer_nothing_is_shredded(desk, store, caplog):
    broken = desk.settings.model_copy(update={"database_url": f"sqlite:///{desk.settings.state_dir}"})
    stopping = threading.Event()
    stopping.set()
    Shredder(store, broken, stopping).run()
    assert living(store) == living(store, "south") == [BEFORE, HOUR, AFTER]
    assert "whether a subject request needs the footage is not known" in caplog.text


def test_a_database_of_a_newer_version_and_a_row_that_cannot_be_read_are_errors_like_others(desk, store, caplog):
    stopping = threading.Event()
    stopping.set()
    request = ask(desk)
    desk.set(request, draft={})
    with pytest.raises(HoldError, match="is not known"):
        Holds(desk.settings).look()
    with desk.database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'v0099_next'"))
    Shredder(store, desk.settings, stopping).run()
    assert "keys that have expired may remain: SFUMATO_DATABASE_URL" in caplog.text
    assert keys(desk.settings, "--expired").exit_code == 1
    assert living(store) == [BEFORE, HOUR, AFTER]


def test_the_ingestor_goes_on_to_shred_whatever_happened(desk, store, caplog, monkeypatch):
    stopping, rounds, answers = threading.Event(), iter([False, True]), iter([lambda: 1 / 0, list])
    monkeypatch.setattr(stopping, "wait", lambda _: next(rounds))
    monkeypatch.setattr(Shredder, "_held", lambda _: next(answers)())
    Shredder(store, desk.settings, stopping).run()
    assert "keys that have expired may remain: ZeroDivisionError" in caplog.text
    assert living(store) == []


def test_without_a_database_nobody_has_asked(tmp_path):
    assert Holds(Settings(state_dir=tmp_path)).look() == []
    assert not (tmp_path / "sfumato.db").exists()
    loaded = [sys.executable, "-c", "import sys, sfumato.agents.ingest; print('sqlalchemy' in sys.modules)"]
    assert subprocess.check_output(loaded, text=True) == "False\n", "31 MB that an ingestor does without"


def test_the_command_refuses_and_names_the_request(desk, store):
    request = ask(desk)
    done = keys(desk.settings, *BY_HAND)
    assert done.exit_code == 1
    assert f"north, {stores.named(HOUR)}: subject request {request.id} is pending until 20" in done.output
    assert "--despite-requests" in done.output
    assert living(store) == [BEFORE, HOUR, AFTER]
    other = keys(desk.settings, "--camera", "south", "--before", AFTER.isoformat(), "--yes")
    assert other.exit_code == 0, other.output
    assert living(store, "south") == [AFTER]
    earlier = keys(desk.settings, "--camera", "north", "--before", HOUR.isoformat(), "--yes")
    assert (earlier.exit_code, living(store)) == (0, [HOUR, AFTER])


def test_what_is_asked_for_while_the_command_asks_is_kept(desk, store, monkeypatch):
    monkeypatch.setattr(click, "confirm", lambda *_, **__: ask(desk))
    done = keys(desk.settings, *BY_HAND[:-1])
    assert (done.exit_code, "is pending until 20" in done.output) == (1, True)
    assert living(store) == [BEFORE, HOUR, AFTER]


def test_by_age_the_command_keeps_what_is_held_and_says_so(desk, store):
    request = ask(desk)
    done = keys(desk.settings, "--expired")
    assert done.exit_code == 0
    assert f"kept: north, {stores.named(HOUR)}: subject request {request.id}" in done.stderr
    shredded = [(line["camera"], line["hour"]) for line in map(json.loads, done.stdout.splitlines())]
    assert ("north", stores.named(HOUR)) not in shredded
    assert len(shredded) == 5
    assert living(store) == [HOUR]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
@pytest.mark.parametrize("arguments", [BY_HAND, ("--expired",)])
def test_whoever_overrides_is_on_the_record_first(topics, desk, store, arguments):
    request = ask(desk)
    settings = topics.model_copy(update={"state_dir": desk.settings.state_dir})
    done = keys(settings, *arguments, "--despite-requests")
    assert done.exit_code == 0, done.output
    assert living(store) == []
    (told,) = [Disclosure.from_message(m.key(), m.value()) for m in read_topic(settings, DISCLOSURES)]
    assert (told.request, told.act, told.by) == (request.id, Act.SHREDDED, "sfumato keys shred")
    assert told.note == f"although this request was open: {stores.named(HOUR)}"


def test_what_cannot_be_recorded_is_not_shredded(desk, store, monkeypatch):
    monkeypatch.setattr(disclosures, "TOLD_WITHIN", 0.1)
    ask(desk)
    nowhere = desk.settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    done = keys(nowhere, *BY_HAND, "--despite-requests")
    assert done.exit_code == 1
    assert "nothing was shredded" in done.output
    assert living(store) == [BEFORE, HOUR, AFTER]
