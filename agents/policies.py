"""The policies in force and their history: the compacted topic read whole at start, then followed.

A change takes effect within a fraction of a second, without a restart. A policy that does not validate, or is below
the site's floor, is none; an empty value (tombstone) withdraws one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from sfumato.agents import provision
from sfumato.agents.follow import Follower
from sfumato.agents.policy_files import PolicyError
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.floor import Floor
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import CAMERAS, Policy, applicable
from sfumato.schemas.topics import POLICIES

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Version:
    """What was set under a version: ``value`` as it was published, ``set_at``: when. ``policy`` None: it does not
    validate any more."""

    value: bytes
    set_at: datetime
    policy: Policy | None


@dataclass(slots=True)
class Register:
    """The topic as far as it was read. ``in_force`` by the policy's name: a camera's id or a pattern. ``history`` by
    name and version, where ``keep_history``: a worker has no use for it."""

    floor: Floor
    keep_history: bool = False
    in_force: dict[str, Timetable | NoPolicy] = field(default_factory=dict)
    history: dict[str, dict[int, Version]] = field(default_factory=dict)
    _names: dict[str, str | None] = field(default_factory=dict)
    """By camera, the policy that applies to it."""

    def take(self, key: bytes | None, value: bytes | None, set_at: datetime) -> None:
        """Take a message in. Never raises."""
        name, is_version, number = (key or b"").decode(errors="replace").partition("@")
        if not CAMERAS.fullmatch(name):
            log.error("a policy under a key that is no camera's id or pattern is ignored")
        elif is_version:
            if self.keep_history and number.isascii() and number.isdecimal() and len(number) <= 19:
                self._keep(name, int(number), key, value, set_at)
        else:
            self._put_in_force(name, key, value)

    def applies(self, camera: str) -> str | None:
        """Name of the policy for the camera: its own, else the most specific pattern; None: there is none."""
        if camera not in self._names:
            self._names[camera] = applicable(camera, self.in_force)
        return self._names[camera]

    def get(self, camera: str, captured_at: datetime, now: datetime) -> Policy | NoPolicy:
        """The policy by which a frame of the camera captured then and read now is masked."""
        name = self.applies(camera)
        entry = NoPolicy(Reason.NO_POLICY) if name is None else self.in_force[name]
        return entry if isinstance(entry, NoPolicy) else entry.at(captured_at, now)

    def used(self, name: str) -> dict[int, Policy | None]:
        """By version, what was ever set under the name."""
        versions = {number: version.policy for number, version in self.history.get(name, {}).items()}
        entry = self.in_force.get(name)
        if isinstance(entry, Timetable):
            versions.setdefault(entry.policy.version, entry.policy)
        return versions

    def _put_in_force(self, name: str, key: bytes | None, value: bytes | None) -> None:
        if value:
            self.in_force[name] = self._read(name, key, value)
        else:
            self.in_force.pop(name, None)
        self._names.clear()

    def _read(self, name: str, key: bytes | None, value: bytes) -> Timetable | NoPolicy:
        try:
            policy = Policy.from_message(key, value)
        except EnvelopeError as error:
            problem = str(error)
        else:
            weaker = self.floor.problems(policy)
            if not weaker:
                log.info("policy %s version %d", name, policy.version)
                for warning in policy.warnings():
                    log.warning("policy %s version %d: %s", name, policy.version, warning)
                return Timetable(policy, value)
            problem = "; ".join(weaker)
        log.error("%s has no valid policy and will be fully masked: %s", name, problem)
        return NoPolicy(Reason.INVALID_POLICY, problem[:500], camera=name)

    def _keep(self, name: str, number: int, key: bytes | None, value: bytes | None, set_at: datetime) -> None:
        versions = self.history.setdefault(name, {})
        if not value:
            versions.pop(number, None)
            return
        try:
            policy = Policy.from_message(key, value)
        except EnvelopeError:
            policy = None
        versions[number] = Version(value, set_at, policy)


class PolicyStore:
    """Thread-safe. :meth:`start` returns once every policy published before it has been read."""

    def __init__(self, settings: Settings, floor: Floor | None = None, *, keep_history: bool = False) -> None:
        self.register = Register(floor or Floor(), keep_history)
        self._changed = threading.Condition()
        self._follower = Follower(settings, POLICIES, self._take)

    def start(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._follower.load(timeout)

    def get(self, camera: str, captured_at: datetime | None = None, now: datetime | None = None) -> Policy | NoPolicy:
        """The policy by which a frame of the camera captured then (None: now) and read now is masked."""
        now = now or datetime.now(UTC)
        with self._changed:
            return self.register.get(camera, captured_at or now, now)

    def look(self, question: Callable[[Register], T]) -> T:
        """What the register says now; nothing changes meanwhile."""
        with self._changed:
            return question(self.register)

    def wait_for(self, condition: Callable[[Register], bool], timeout: float) -> bool:
        """Until the condition holds, looked at after each message; False at the timeout, in seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self.register), timeout)

    def close(self) -> None:
        self._follower.close()

    def _take(self, key: bytes | None, value: bytes | None, at: datetime) -> None:
        with self._changed:
            self.register.take(key, value, at)
            self._changed.notify_all()


def load(settings: Settings, floor: Floor | None = None, timeout: float = 30.0) -> Register:
    """The topic as it is now, history included; TopicError where it, or the broker, is not there."""
    provision.check(settings, (POLICIES,))
    store = PolicyStore(settings, floor, keep_history=True)
    try:
        store.start(timeout)
    finally:
        store.close()
    return store.register


def check(register: Register, policies: Iterable[Policy]) -> None:
    """Refuse what would make a version mean two things, or go back; :class:`PolicyError` names each.

    Versions only rise, and what was set under one stays: to go back is to set the old content under a new version.
    """
    problems = []
    for policy in policies:
        used, where = register.used(policy.camera), f"policy of {policy.camera!r}: version"
        if not used or policy.version > max(used):
            continue
        remedy = f"raise it to {max(used) + 1}"
        if policy.version not in used or policy.version < max(used):
            problems.append(f"{where}: {policy.version} is lower than {max(used)}, which was set already; {remedy}")
        elif used[policy.version] != policy:
            problems.append(f"{where}: {policy.version} was set with other content; {remedy}")
    if problems:
        raise PolicyError("\n".join(problems))


def publish(settings: Settings, policies: Iterable[Policy], timeout: float = 30.0) -> None:
    """Publish policies and wait until the broker has them; KafkaException or TimeoutError where it refuses.

    A version is readable before it is in force: the topic has one partition, and the producer keeps the order.
    """
    messages = (p.to_message(history=history) for p in policies for history in (True, False))
    _send(settings, messages, timeout)


def withdraw(settings: Settings, name: str, timeout: float = 30.0) -> None:
    """Take the policy of this name out of force; its history stays."""
    _send(settings, [Message(name.encode(), b"", [])], timeout)


def _send(settings: Settings, messages: Iterable[Message], timeout: float) -> None:
    producer = Producer(settings, client_id="sfumato-policies")
    failures: list[KafkaError] = []
    for message in messages:
        producer.send(POLICIES, message, lambda error: failures.append(error) if error else None)
    if producer.close(timeout):
        raise TimeoutError(f"the broker took no policies within {timeout} s; is it up?")
    if failures:
        raise KafkaException(failures[0])
