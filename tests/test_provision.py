"""`sfumato topics` on both brokers."""

from __future__ import annotations

import re

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from prometheus_client import REGISTRY

from sfumato.agents import provision
from sfumato.agents.settings import Settings
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_RAW, POLICIES, TOPICS


def _admin(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": settings.bootstrap_servers})


def _create(settings: Settings, name: str, partitions: int, config: dict[str, str]) -> None:
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
    admin = _admin(settings)  # held: a collected client fails its futures
    for future in admin.create_topics([new], request_timeout=10).values():
        future.result()
    provision.await_visible(admin, [name])


def test_creates_every_topic_once(settings: Settings) -> None:
    assert provision.create(settings) == [settings.topic(topic) for topic in TOPICS]
    assert provision.create(settings) == []
    provision.check(settings)
    found = _admin(settings).list_topics(timeout=10).topics
    assert {name: len(topic.partitions) for name, topic in found.items() if name.startswith(settings.topic_prefix)} == {
        settings.topic(topic): topic.partitions or settings.partitions for topic in TOPICS
    }


def test_names_every_missing_topic(settings: Settings) -> None:
    _create(settings, settings.topic(FRAMES_RAW), 2, FRAMES_RAW.config())
    with pytest.raises(provision.TopicError) as error:
        provision.check(settings)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [settings.topic(topic) for topic in TOPICS if topic != FRAMES_RAW]
    assert all("missing; run `sfumato topics`" in line for line in lines)


def test_names_wrong_partitions(settings: Settings) -> None:
    _create(settings, settings.topic(EPOCHS), 3, EPOCHS.config())
    provision.create(settings)
    with pytest.raises(provision.TopicError, match=rf"^{re.escape(settings.topic(EPOCHS))}: 3 partitions instead of 1"):
        provision.check(settings)


def test_names_wrong_configuration(settings: Settings) -> None:
    _create(settings, settings.topic(POLICIES), 1, {**POLICIES.config(), "cleanup.policy": "delete"})
    provision.create(settings)
    with pytest.raises(provision.TopicError) as error:
        provision.check(settings)
    [line] = str(error.value).splitlines()
    assert line.startswith(f"{settings.topic(POLICIES)}: cleanup.policy is delete, not compact; run `kafka-configs.sh")


def test_raw_frames_are_kept_as_long_as_set(topics: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Another retention on the topic is a refusal, or an alarm where that is set."""
    other = topics.model_copy(update={"raw_retention_minutes": 20})
    with pytest.raises(provision.TopicError) as refused:
        provision.check(other)
    name = topics.topic(FRAMES_RAW)
    found = [
        f"{name}: retention.ms is 600000, not 1200000; run `kafka-configs.sh --alter",
        f"{name}: segment.ms is 150000, not 300000; run `kafka-configs.sh --alter",
    ]
    lines = str(refused.value).splitlines()
    assert [line.startswith(text) for line, text in zip(lines, found, strict=True)] == [True, True]
    alarmed = other.model_copy(update={"raw_retention_mismatch": "alarm"})
    with caplog.at_level("CRITICAL"):
        provision.check(alarmed)
    assert all(text in caplog.text for text in found)
    assert REGISTRY.get_sample_value("sfumato_raw_retention_mismatch") == 1
    provision.check(topics)
    assert REGISTRY.get_sample_value("sfumato_raw_retention_mismatch") == 0


def test_an_alarm_covers_retention_alone(settings: Settings) -> None:
    settings = settings.model_copy(update={"raw_retention_mismatch": "alarm"})
    wrong = {**FRAMES_RAW.config(), "retention.ms": "900000", "compression.type": "gzip"}
    _create(settings, settings.topic(FRAMES_RAW), 2, wrong)
    with pytest.raises(provision.TopicError) as refused:
        provision.check(settings, (FRAMES_RAW,))
    [line] = str(refused.value).splitlines()
    assert "compression.type is gzip, not uncompressed" in line


def test_raw_frames_topic_is_made_as_set(settings: Settings) -> None:
    settings = settings.model_copy(update={"raw_retention_minutes": 60})
    provision.create(settings)
    provision.check(settings)
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(FRAMES_RAW))
    admin = _admin(settings)
    (described,) = admin.describe_configs([resource], request_timeout=10).values()
    assert described.result()["retention.ms"].value == "3600000"


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_kafka_reports_defaults_too(settings: Settings) -> None:
    """A topic made without its contract's settings; the embedded broker does not know Kafka's defaults."""
    _create(settings, settings.topic(AUDIT), 2, {})
    with pytest.raises(provision.TopicError) as error:
        provision.check(settings, (AUDIT,))
    assert "retention.ms is 604800000, not 7776000000" in str(error.value)


def test_says_that_no_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "TIMEOUT", 1.0)
    with pytest.raises(provision.TopicError, match=r"no broker answers at 127\.0\.0\.1:1;"):
        provision.check(Settings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(provision.TopicError, match=r"no broker answers at 127\.0\.0\.1:1;"):
        provision.create(Settings(bootstrap_servers="127.0.0.1:1"))
