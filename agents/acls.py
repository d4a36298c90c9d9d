"""Who may do what on Kafka: one table of roles, as ACLs, given to a cluster and compared with it.

The roles are the least that each process needs; tests run the pipeline with no more. Read is allowed nobody but
``anonymize`` and ``reveal`` on ``frames.raw``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from sfumato.agents.connection import client_config, diagnose
from sfumato.agents.settings import Settings
from sfumato.agents.shares import SHARED, Vendor
from sfumato.schemas.fault import Fault
from sfumato.schemas.topics import (
    AUDIT,
    CALLS,
    DISCLOSURES,
    EPOCHS,
    FINDS,
    FRAMES_ANONYMIZED,
    FRAMES_RAW,
    JOB_EVENTS,
    JOBS,
    LEDGER,
    LEDGER_HEADS,
    POLICIES,
    SUSPENSIONS,
    TOPICS,
    Topic,
)

TIMEOUT = 15.0
ANYONE = "User:*"


class AclError(Fault, RuntimeError):
    """The cluster's ACLs cannot be read or changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Role:
    """What one principal may do. ``group``: what follows ``SFUMATO_GROUP_ID`` in the name of the consumer group that it
    joins; None: it joins none. ``shares``: it also writes the topics of vendors. ``checks``: it compares its topics
    with their contracts at start, so it sees their configuration. ``describes``: of which it sees the configuration and
    the partitions, without reading them."""

    reads: tuple[Topic, ...] = ()
    writes: tuple[Topic, ...] = ()
    group: str | None = None
    shares: bool = False
    checks: bool = True
    describes: tuple[Topic, ...] = ()

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Those that it reads or writes, each once."""
        return tuple(dict.fromkeys(self.reads + self.writes))


ROLES: Mapping[str, Role] = {
    "ingest": Role((EPOCHS,), (FRAMES_RAW, EPOCHS)),
    "anonymize": Role((FRAMES_RAW, POLICIES, SUSPENSIONS), (FRAMES_ANONYMIZED, AUDIT), group=""),
    "inspect": Role((FRAMES_ANONYMIZED, POLICIES, SUSPENSIONS, FINDS), (FINDS, SUSPENSIONS), group="-inspect"),
    "archive": Role((JOBS,), (JOBS, JOB_EVENTS), group="-archive"),
    "ledger": Role(
        (AUDIT, EPOCHS, POLICIES, DISCLOSURES, LEDGER, LEDGER_HEADS), (LEDGER, LEDGER_HEADS), group="-ledger"
    ),
    "bridge": Role(
        (FRAMES_ANONYMIZED, AUDIT, CALLS, POLICIES, SUSPENSIONS),
        (POLICIES, SUSPENSIONS, CALLS, JOBS, JOB_EVENTS, DISCLOSURES),
        checks=False,
    ),
    "reveal": Role((FRAMES_RAW, POLICIES, SUSPENSIONS), (DISCLOSURES,)),
    "share": Role((FRAMES_ANONYMIZED,), group="-share", shares=True),
    "reconcile": Role((EPOCHS, AUDIT, FRAMES_ANONYMIZED), checks=False),
    "record": Role((FRAMES_ANONYMIZED,), checks=False),
    "export": Role((LEDGER, AUDIT, FRAMES_ANONYMIZED, POLICIES, DISCLOSURES), checks=False),
    "dossier": Role((EPOCHS, POLICIES, AUDIT, FINDS, SUSPENSIONS, DISCLOSURES, LEDGER), describes=TOPICS),
    "policy-editor": Role((POLICIES,), (POLICIES,)),
    "key-shredder": Role((), (DISCLOSURES,), checks=False),
    "suspension-lifter": Role((SUSPENSIONS,), (SUSPENSIONS,), checks=False),
}
"""By the name of the command, where there is one."""


def principals(given: Mapping[str, str], without: Iterable[str] = ()) -> dict[str, str]:
    """Each role's principal, as Kafka writes it: as given, else ``User:sfumato-ROLE``. :class:`AclError` names an
    unknown role."""
    if unknown := {*given, *without} - ROLES.keys():
        raise AclError(f"unknown role {', '.join(sorted(unknown))}; known: {', '.join(ROLES)}")
    return {role: given.get(role, f"User:sfumato-{role}") for role in ROLES if role not in {*without}}


def wanted(settings: Settings, roles: Mapping[str, str], vendors: Sequence[Vendor] = ()) -> list[AclBinding]:
    """The ACLs of these roles (name to principal) and vendors, each once."""
    found: list[AclBinding] = []
    for name, principal in roles.items():
        found += _of_role(settings, ROLES[name], principal)
    for vendor in vendors:
        topic = settings.topic(vendor.topic)
        found.append(_allow(vendor.owner, AclOperation.READ, ResourceType.TOPIC, topic))
        found.append(_allow(vendor.owner, AclOperation.READ, ResourceType.GROUP, f"{topic}.", prefixed=True))
    return list(dict.fromkeys(found))


def _of_role(settings: Settings, role: Role, principal: str) -> Iterable[AclBinding]:
    for topic in role.reads:
        yield _allow(principal, AclOperation.READ, ResourceType.TOPIC, settings.topic(topic))
    for topic in role.writes:
        yield _allow(principal, AclOperation.WRITE, ResourceType.TOPIC, settings.topic(topic))
    for topic in role.describes:
        if topic not in role.topics:  # reading and writing include it
            yield _allow(principal, AclOperation.DESCRIBE, ResourceType.TOPIC, settings.topic(topic))
    for topic in dict.fromkeys((role.topics if role.checks else ()) + role.describes):
        yield _allow(principal, AclOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, settings.topic(topic))
    if role.shares:
        name = settings.topic_prefix + SHARED
        yield _allow(principal, AclOperation.WRITE, ResourceType.TOPIC, name, prefixed=True)
        yield _allow(principal, AclOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, name, prefixed=True)
    if role.reads:  # clients look up their group's coordinator even where they join none
        yield _allow(principal, AclOperation.DESCRIBE, ResourceType.GROUP, settings.group_id, prefixed=True)
    if role.group is not None:
        yield _allow(principal, AclOperation.READ, ResourceType.GROUP, settings.group_id + role.group)


def _allow(
    principal: str, operation: AclOperation, kind: ResourceType, name: str, *, prefixed: bool = False
) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    return AclBinding(kind, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)


def line(binding: AclBinding) -> str:
    """As ``User:sfumato-ingest may write topic frames.raw``."""
    operation = AclOperation(binding.operation).name.lower().replace("_", " ")
    star = "*" if binding.resource_pattern_type == ResourcePatternType.PREFIXED else ""
    host = "" if binding.host == "*" else f" from {binding.host}"
    return (
        f"{binding.principal} may {operation} {ResourceType(binding.restype).name.lower()} {binding.name}{star}{host}"
    )


class Cluster:
    """The cluster's ACLs, as its administrator sees them. Raises :class:`AclError`."""

    def __init__(self, settings: Settings) -> None:
        if (problem := diagnose(settings)) is not None:
            raise AclError(problem)
        self._admin = AdminClient(client_config(settings))
        try:
            # Asked for first: librdkafka takes a refusal to describe ACLs for none.
            description = self._admin.describe_cluster(include_authorized_operations=True, request_timeout=TIMEOUT)
            allowed = description.result().authorized_operations or []
        except KafkaException as error:
            raise AclError(f"Kafka at {settings.bootstrap_servers}: {error.args[0].str()}") from None
        if not {AclOperation.DESCRIBE, AclOperation.ALTER} <= {*allowed}:
            raise AclError("this principal may not see and change ACLs; sign in as the cluster's administrator")

    def acls(self) -> list[AclBinding]:
        """Every one that allows something."""
        allowed = AclPermissionType.ALLOW
        every: tuple[Any, ...] = (
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            None,
            None,
            AclOperation.ANY,
            allowed,
        )
        try:
            return list(self._admin.describe_acls(AclBindingFilter(*every), request_timeout=TIMEOUT).result())
        except KafkaException as error:
            raise AclError(f"the cluster's ACLs cannot be read: {error.args[0].str()}") from None

    def add(self, bindings: Sequence[AclBinding]) -> None:
        """Idempotent; returns once the cluster lists them, which it does a moment after it has taken them."""
        added = self._admin.create_acls(list(bindings), request_timeout=TIMEOUT) if bindings else {}
        for binding, future in added.items():
            try:
                future.result()
            except KafkaException as error:
                raise AclError(f"cannot add “{line(binding)}”: {error.args[0].str()}") from None
        deadline = time.monotonic() + TIMEOUT
        while not {*bindings} <= {*self.acls()}:
            if time.monotonic() > deadline:
                raise AclError("the ACLs were taken, but the cluster does not list them")
            time.sleep(0.1)


OPENING = (AclOperation.CLUSTER_ACTION, AclOperation.ALTER, AclOperation.ALL)
"""What on the cluster opens every topic: to fetch as a replica does, and to change ACLs."""


def beyond(settings: Settings, present: Iterable[AclBinding], wanted: Sequence[AclBinding]) -> list[AclBinding]:
    """Those that nobody needs: what a principal of ours, or everyone, may do besides, and whoever else may do something
    with our topics and groups, or with the cluster that opens them. Kafka's super users stand in the brokers'
    configuration, so they are not seen here."""
    ours = {binding.principal for binding in wanted} | {ANYONE}
    topics = [settings.topic(topic) for topic in TOPICS]
    return [acl for acl in present if acl not in wanted and (acl.principal in ours or _touches(acl, settings, topics))]


def _touches(acl: AclBinding, settings: Settings, topics: Sequence[str]) -> bool:
    if acl.restype == ResourceType.TOPIC:
        names, prefix = topics, settings.topic_prefix + SHARED
    elif acl.restype == ResourceType.GROUP:
        names, prefix = [settings.group_id], settings.group_id
    else:
        cluster = acl.restype == ResourceType.BROKER and acl.permission_type == AclPermissionType.ALLOW
        return cluster and acl.operation in OPENING
    if acl.resource_pattern_type == ResourcePatternType.PREFIXED:
        return acl.name.startswith(prefix) or any(name.startswith(acl.name) for name in [*names, prefix])
    return acl.name == "*" or acl.name in names or acl.name.startswith(prefix)
