"""The topics as the broker really has them."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from sfumato.agents.connection import client_config
from sfumato.agents.provision import TIMEOUT, TopicError
from sfumato.agents.settings import Settings
from sfumato.schemas.topics import TOPICS, Topic


@dataclass(frozen=True, slots=True)
class Standing:
    """A topic as the broker has it. ``config``: what it answers, in Kafka's names; None: it did not say."""

    partitions: int
    replicas: int
    config: dict[str, str] | None

    @property
    def retention_ms(self) -> int | None:
        """For how long messages are kept; -1: for ever; None: not known."""
        config = self.config or {}
        if config.get("cleanup.policy") == "compact":
            return -1
        retention = config.get("retention.ms")
        return int(retention) if retention is not None else None

    @property
    def says_all(self) -> bool:
        """Whether the broker reported what was not set for the topic, too. The embedded one does not; it enforces no
        retention either."""
        return "segment.bytes" in (self.config or {})


def describe(settings: Settings) -> dict[Topic, Standing | None]:
    """How the broker has each topic; None: it is missing. :class:`TopicError` where no broker answers."""
    admin = AdminClient(client_config(settings))
    try:
        existing = admin.list_topics(timeout=TIMEOUT).topics
    except KafkaException as error:
        raise TopicError(f"no broker answers at {settings.bootstrap_servers}: {error.args[0].str()}") from None
    found: dict[Topic, Standing | None] = dict.fromkeys(TOPICS)
    present = {t: existing[n] for t in TOPICS if (n := settings.topic(t)) in existing and existing[n].error is None}
    resources = {topic: ConfigResource(ResourceType.TOPIC, settings.topic(topic)) for topic in present}
    asked = admin.describe_configs([*resources.values()], request_timeout=TIMEOUT) if resources else {}
    for topic, metadata in present.items():
        try:
            config = {name: str(entry.value) for name, entry in asked[resources[topic]].result().items()}
        except KafkaException:
            config = None
        replicas = min((len(partition.replicas) for partition in metadata.partitions.values()), default=0)
        found[topic] = Standing(len(metadata.partitions), replicas, config)
    return found
