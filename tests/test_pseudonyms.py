"""Pseudonyms: the same for one recipient in one period, others elsewhere; reversed by the key alone, on the record."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sfumato.agents.bridge import make_app
from sfumato.agents.cli import main
from sfumato.agents.pseudonyms import PseudonymError, Pseudonyms, UnknownPseudonymError, period_of
from sfumato.agents.settings import Settings
from sfumato.schemas.metadata import NAMES, Metadata, MetadataField, Period
from sfumato.schemas.scope import Scope
from tests.calling import bearer, secret

NOVEMBER = datetime(2026, 11, 25, 12, tzinfo=UTC)
SERIAL = MetadataField.SERIAL


def rules(recipient: str = "press", period: Period = Period.MONTH) -> Metadata:
    return Metadata(keep={"serial": "pseudonym"}, recipient=recipient, period=period)


def at(folder: Path, moment: datetime = NOVEMBER) -> Pseudonyms:
    return Pseudonyms(Settings(state_dir=folder), lambda: moment)


def made(folder: Path, value: str = "SN-1", recipient: str = "press", moment: datetime = NOVEMBER) -> str:
    pseudonym = at(folder, moment).pseudonymize(SERIAL, value, rules(recipient))
    assert pseudonym is not None
    return pseudonym


def test_the_same_within_recipient_and_period_others_elsewhere(tmp_path):
    first = made(tmp_path)
    assert made(tmp_path, moment=NOVEMBER + timedelta(days=4)) == first
    assert made(tmp_path / "elsewhere") != first
    others = [
        made(tmp_path, recipient="police"),
        made(tmp_path, moment=NOVEMBER + timedelta(days=10)),
        made(tmp_path, "SN-2"),
        at(tmp_path).pseudonymize(MetadataField.PLACE, "SN-1", rules()),
        at(tmp_path).pseudonymize(SERIAL, "SN-1", rules(period=Period.YEAR)),
    ]
    assert len({first, *others}) == 6


@hypothesis_settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(NAMES)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(list(Period)),
)
def test_each_value_is_revealed_to_its_recipient_and_period_alone(tmp_path, field, value, recipient, period):
    pseudonyms = at(tmp_path)
    pseudonym = pseudonyms.pseudonymize(field, value, rules(recipient, period))
    name = period_of(NOVEMBER, period)
    assert pseudonym is not None
    assert pseudonym.isascii()
    assert len(value) < 4 or value not in pseudonym
    assert pseudonyms.reveal(pseudonym, recipient, name) == (field, value)
    with pytest.raises(UnknownPseudonymError):
        pseudonyms.reveal(pseudonym, recipient + "x", name)
    with pytest.raises(UnknownPseudonymError):
        pseudonyms.reveal(pseudonym, recipient, "2026-01")


def test_lengths_tell_little_and_too_long_values_have_none(tmp_path):
    assert len({len(made(tmp_path, "x" * length)) for length in range(32)}) == 1
    assert at(tmp_path).pseudonymize(SERIAL, "ü" * 128, rules()) is None


def test_a_changed_pseudonym_is_refused_wherever_it_was_changed(tmp_path):
    pseudonym = made(tmp_path)
    name, _, text = pseudonym.partition(".")
    sealed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(UnknownPseudonymError):
            at(tmp_path).reveal(f"{name}.{base64.b32encode(changed).decode().rstrip('=').lower()}", "press", "2026-11")
    with pytest.raises(UnknownPseudonymError):
        at(tmp_path).reveal(f"place.{text}", "press", "2026-11")
    for wrong in (pseudonym[:-1], text, "serial.", f"make.{text}", pseudonym.upper(), f"{pseudonym}1"):
        with pytest.raises(PseudonymError):
            at(tmp_path).reveal(wrong, "press", "2026-11")


def test_secrets_are_for_their_owner_alone_and_one_for_all_processes(tmp_path):
    barrier, pseudonyms = threading.Barrier(8), [at(tmp_path) for _ in range(8)]
    found: list[str | None] = [None] * 8

    def make(number: int) -> None:
        barrier.wait()
        found[number] = pseudonyms[number].pseudonymize(SERIAL, "SN-1", rules())

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    (file,) = (tmp_path / "pseudonyms").iterdir()
    assert file.name == "2026-11.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_destroyed_period_is_irreversible_and_the_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_STATE_DIR", str(tmp_path))
    november, december = made(tmp_path), made(tmp_path, moment=NOVEMBER + timedelta(days=10))
    assert CliRunner().invoke(main, ["pseudonym", "periods"]).output.split() == ["2026-11", "2026-12"]
    assert CliRunner().invoke(main, ["pseudonym", "destroy", "2026-11"]).exit_code == 2  # not without --yes
    assert CliRunner().invoke(main, ["pseudonym", "destroy", "2026-11", "--yes"]).exit_code == 0
    with pytest.raises(UnknownPseudonymError, match="destroyed"):
        at(tmp_path).reveal(november, "press", "2026-11")
    assert at(tmp_path).reveal(december, "press", "2026-12") == (SERIAL, "SN-1")
    again = CliRunner().invoke(main, ["pseudonym", "destroy", "2026-11", "--yes"])
    assert again.exit_code == 1
    assert "destroyed" in again.stderr
    assert made(tmp_path) != november  # the month begins anew
    escape = CliRunner().invoke(main, ["pseudonym", "destroy", "../../x", "--yes"])
    assert "period: write it as" in escape.stderr


def call(folder: Path, body: dict[str, str], *scopes: Scope) -> httpx.Response:
    """Ask the API, without its Kafka reader."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.post("/v1/pseudonyms:reveal", json=body, headers=headers)

    settings = Settings(state_dir=folder, bridge_allowed_hosts=["testserver"])
    app = make_app(settings)
    headers = bearer(secret(settings, *scopes))
    return asyncio.run(ask())


def body(made: str, **changed: str) -> dict[str, str]:
    reason = "complaint 2026-0815 by the person concerned"
    return {"pseudonym": made, "recipient": "press", "period": "2026-11", "reason": reason} | changed


def test_the_api_reveals_and_records_without_the_value(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pseudonym = made(tmp_path, "SN-4711")
    answer = call(tmp_path, body(pseudonym), Scope.PSEUDONYMS_REVEAL)
    assert answer.status_code == 200
    assert answer.json() == {"field": "serial", "value": "SN-4711"}
    assert answer.headers["cache-control"] == "no-store"
    (line,) = [entry.getMessage() for entry in caplog.records if "pseudonym reveal" in entry.getMessage()]
    told = json.loads(line.partition(": ")[2])
    assert told["outcome"] == "revealed"
    assert told["caller"].startswith("key:")
    assert told["purpose"] == "tests"
    assert {told["reason"], told["recipient"]} == {body("")["reason"], "press"}
    assert "SN-4711" not in caplog.text


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"recipient": "police"}, 404, "pseudonym: not one of this recipient"),
        ({"period": "2026-10"}, 404, "period: has no secret"),
        ({"period": "../secret"}, 422, "period"),
        ({"pseudonym": "serial.abc!"}, 422, "pseudonym"),
        ({"reason": "            "}, 422, "reason"),
    ],
)
def test_the_api_refuses_what_it_cannot_reverse_and_records_that_too(tmp_path, caplog, changed, status, said):
    caplog.set_level(logging.INFO)
    answer = call(tmp_path, body(made(tmp_path), **changed), Scope.PSEUDONYMS_REVEAL)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]
    assert ('"outcome": "refused"' in caplog.text) == ("reason" not in changed)


def test_the_api_wants_the_scope(tmp_path):
    assert call(tmp_path, body(made(tmp_path)), *(set(Scope) - {Scope.PSEUDONYMS_REVEAL})).status_code == 403
