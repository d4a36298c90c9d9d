"""Create the topics where they are missing and say what is wrong with those that exist."""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from sfumato.agents.connection import client_config, diagnose
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault
from sfumato.schemas.topics import TOPICS, Topic

TIMEOUT = 15.0


class TopicError(Fault, RuntimeError):
    """A topic is missing or differs from its contract; each line of the text names one and the remedy."""


def create(settings: Settings, topics: tuple[Topic, ...] = TOPICS) -> list[str]:
    """Create missing topics; returns their names. Existing ones are left as they are. Idempotent."""
    admin = _admin(settings)
    wanted = [
        NewTopic(
            settings.topic(topic),
            num_partitions=topic.partitions or settings.partitions,
            replication_factor=settings.replication_factor,
            config=topic.config(),
        )
        for topic in topics
    ]
    created = []
    for name, future in admin.create_topics(wanted, request_timeout=TIMEOUT).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() in _NO_ANSWER:
                raise _no_broker(settings) from None
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"{name}: {error.args[0].str()}") from None
    await_visible(admin, created)
    return created


def await_visible(admin: AdminClient, names: list[str]) -> None:
    """Wait until the broker's metadata shows new topics: Apache Kafka answers a creation before it does."""
    deadline = time.monotonic() + TIMEOUT
    while missing := set(names) - admin.list_topics(timeout=TIMEOUT).topics.keys():
        if time.monotonic() > deadline:
            raise TopicError(f"{', '.join(sorted(missing))}: created, but the broker does not list it")
        time.sleep(0.05)


def delete(settings: Settings) -> None:
    """Delete the topics that exist; for demonstrations and tests."""
    admin = _admin(settings)
    existing = admin.list_topics(timeout=TIMEOUT).topics
    names = [name for topic in TOPICS if (name := settings.topic(topic)) in existing]
    for future in admin.delete_topics(names, request_timeout=TIMEOUT).values() if names else ():
        future.result()


def check(settings: Settings, topics: tuple[Topic, ...] = TOPICS) -> None:
    """Compare the cluster's topics with their contracts; :class:`TopicError` names every difference."""
    admin = _admin(settings)
    try:
        existing = admin.list_topics(timeout=TIMEOUT).topics
    except KafkaException:
        raise _no_broker(settings) from None
    problems = []
    present = []
    hidden = "" if settings.kafka_security_protocol == "plaintext" else "; or `sfumato acls` gives access to it"
    for topic in topics:
        name = settings.topic(topic)
        if name not in existing or existing[name].error is not None:
            problems.append(f"{name}: missing; run `sfumato topics`{hidden}")
            continue
        present.append(topic)
        # A topic of one partition (policies, epochs) is read whole by one consumer.
        found, wanted = len(existing[name].partitions), topic.partitions
        if wanted is not None and found != wanted:
            problems.append(f"{name}: {found} partitions instead of {wanted}; delete and create it again")
    problems += _config_problems(admin, settings, present)
    if problems:
        raise TopicError("\n".join(problems))


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
    admin = _admin(settings)
    try:
        existing = admin.list_topics(timeout=TIMEOUT).topics
    except KafkaException:
        raise _no_broker(settings) from None
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


def _config_problems(admin: AdminClient, settings: Settings, topics: list[Topic]) -> list[str]:
    resources = {ConfigResource(ResourceType.TOPIC, settings.topic(topic)): topic for topic in topics}
    problems: list[str] = []
    if not resources:
        return problems
    for resource, future in admin.describe_configs(list(resources), request_timeout=TIMEOUT).items():
        found = {name: entry.value for name, entry in future.result().items()}
        for name, wanted in resources[resource].config().items():
            # The embedded broker reports only what was set, and ignores retention (docs/brokers.md).
            if name in found and found[name] != wanted:
                problems.append(
                    f"{resource.name}: {name} is {found[name]}, not {wanted}; run `kafka-configs.sh --alter "
                    f"--topic {resource.name} --add-config {name}={wanted}`"
                )
    return problems


_NO_ANSWER = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)


def _no_broker(settings: Settings) -> TopicError:
    if (problem := diagnose(settings)) is not None:
        return TopicError(problem)
    return TopicError(f"no broker answers at {settings.bootstrap_servers}; start one, or set SFUMATO_BOOTSTRAP_SERVERS")


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(client_config(settings))
