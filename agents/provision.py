"""Create the topics where they are missing and say what is wrong with those that exist."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from sfumato.agents import metrics
from sfumato.agents.connection import client_config, diagnose
from sfumato.agents.settings import Settings
from sfumato.agents.shares import SHARED
from sfumato.schemas.fault import Fault
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, HOUR, MINUTE, TOPICS, Topic

log = logging.getLogger(__name__)

TIMEOUT = 15.0
RETENTION = frozenset({"cleanup.policy", "retention.ms", "segment.ms"})
"""What decides how long a topic keeps its messages."""


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
            config=config(settings, topic),
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


def config(settings: Settings, topic: Topic) -> dict[str, str]:
    """A topic's configuration in Kafka's own names; how long frames are kept is a setting."""
    if topic is FRAMES_RAW:
        topic = replace(topic, retention_ms=settings.raw_retention_minutes * MINUTE)
    elif topic is FRAMES_ANONYMIZED or topic.name.startswith(SHARED):
        topic = replace(topic, retention_ms=settings.anonymized_retention_hours * HOUR)
    return topic.config()


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
    """Compare the cluster's topics with their contracts; :class:`TopicError` names every difference.

    Where SFUMATO_RAW_RETENTION_MISMATCH is ``alarm``, a wrong retention of raw frames is a critical line in the log and
    a metric instead.
    """
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
    alarms, others = _config_problems(admin, settings, present)
    if FRAMES_RAW in present:
        metrics.RAW_RETENTION_MISMATCH.set(bool(alarms))
    for alarm in alarms:
        log.critical("raw frames are kept for another time than SFUMATO_RAW_RETENTION_MINUTES says: %s", alarm)
    if problems + others:
        raise TopicError("\n".join(problems + others))


def _config_problems(admin: AdminClient, settings: Settings, topics: list[Topic]) -> tuple[list[str], list[str]]:
    """What is an alarm only, and what is more."""
    resources = {ConfigResource(ResourceType.TOPIC, settings.topic(topic)): topic for topic in topics}
    alarms: list[str] = []
    problems: list[str] = []
    if not resources:
        return alarms, problems
    for resource, future in admin.describe_configs(list(resources), request_timeout=TIMEOUT).items():
        found = {name: entry.value for name, entry in future.result().items()}
        topic = resources[resource]
        for name, wanted in config(settings, topic).items():
            # The embedded broker reports only what was set, and ignores retention (docs/brokers.md).
            if name in found and found[name] != wanted:
                lenient = settings.raw_retention_mismatch == "alarm" and topic is FRAMES_RAW and name in RETENTION
                (alarms if lenient else problems).append(
                    f"{resource.name}: {name} is {found[name]}, not {wanted}; run `kafka-configs.sh --alter "
                    f"--topic {resource.name} --add-config {name}={wanted}`"
                )
    return alarms, problems


_NO_ANSWER = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)


def _no_broker(settings: Settings) -> TopicError:
    if (problem := diagnose(settings)) is not None:
        return TopicError(problem)
    return TopicError(f"no broker answers at {settings.bootstrap_servers}; start one, or set SFUMATO_BOOTSTRAP_SERVERS")


def _admin(settings: Settings) -> AdminClient:
    """Raises where TLS or SASL keep this client out: it would try on and on."""
    if settings.kafka_security_protocol != "plaintext" and (problem := diagnose(settings)) is not None:
        raise TopicError(problem)
    return AdminClient(client_config(settings))
