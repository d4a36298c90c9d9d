"""Whether published frames go as early as the policies say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY
from stack import demonstration_policy

from sfumato.agents import anonymize, provision, retention
from sfumato.agents.cli import main
from sfumato.agents.policies import PolicyStore
from sfumato.agents.settings import Settings
from sfumato.agents.shares import Vendor
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED
from tests.calling import app, client, secret

SAID = "retention_hours: 6, and frames.anonymized keeps 24 h"


def policy(camera: str, hours: int, version: int = 1) -> Policy:
    changes = {"retention_hours": hours, "version": version}
    return demonstration_policy(camera).model_copy(update=changes)


def take(store: PolicyStore, found: Policy) -> None:
    message = found.to_message(history=False)
    store._take(message.key, message.value, datetime.now(UTC))


@pytest.fixture
def store() -> PolicyStore:
    """Which reads no topic."""
    return PolicyStore(Settings(bootstrap_servers="127.0.0.1:1"))


def test_how_long_published_frames_are_kept_is_a_setting_also_of_vendors_copies():
    settings = Settings(anonymized_retention_hours=6)
    for topic in (FRAMES_ANONYMIZED, Vendor(name="acme", cameras=("*",)).topic):
        assert provision.config(settings, topic)["retention.ms"] == str(6 * 3_600_000)
    assert provision.config(settings, AUDIT) == AUDIT.config()


def test_a_policy_that_states_fewer_hours_is_an_alarm(store, caplog):
    take(store, policy("north", 6))
    take(store, policy("south", 24))
    retention.watch(Settings(), store)
    (line,) = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert f"policy north: {SAID}" in line
    assert REGISTRY.get_sample_value("sfumato_policies_retention_exceeded") == 1
    take(store, policy("north", 24, version=2))  # without a restart
    assert REGISTRY.get_sample_value("sfumato_policies_retention_exceeded") == 0


def test_or_a_refusal_to_start(store):
    strict = Settings(anonymized_retention_mismatch="refuse")
    retention.watch(strict, store)
    take(store, policy("north", 6))
    with pytest.raises(retention.RetentionError, match=f"policy north: {SAID}"):
        retention.watch(strict, store)
    assert issubclass(retention.RetentionError, anonymize.UNMENDED), "which ends the worker for good"
    retention.watch(strict.model_copy(update={"anonymized_retention_hours": 6}), store)


def test_the_command_does_not_set_it(tmp_path: Path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy("north", 6).model_dump(mode="json")))
    environment = {"SFUMATO_BOOTSTRAP_SERVERS": "127.0.0.1:1", "SFUMATO_ANONYMIZED_RETENTION_MISMATCH": "refuse"}
    done = CliRunner().invoke(main, ["policy", "set", str(file)], env=environment)
    assert (done.exit_code, SAID in done.output) == (1, True), done.output


def test_nor_does_the_api(tmp_path: Path):
    with app(tmp_path, anonymized_retention_mismatch="refuse") as bridge:
        caller = client(bridge, secret(bridge.state.settings, Scope.POLICIES_READ, Scope.POLICIES_WRITE))
        answer = caller.post("/v1/policies:validate", json=policy("north", 6).model_dump(mode="json"))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["pointer"]) == ("retention_hours", "/retention_hours")
