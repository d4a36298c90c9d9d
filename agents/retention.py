"""Whether published frames go as early as the policies say. Kafka keeps all of a topic equally long, so a policy's
``retention_hours`` is held only where it is no less than the topic's."""

from __future__ import annotations

import logging
from functools import partial

from sfumato.agents import metrics
from sfumato.agents.policies import PolicyStore, Register
from sfumato.agents.settings import Settings
from sfumato.models.timetable import Timetable
from sfumato.schemas.fault import Fault
from sfumato.schemas.policy import Policy

log = logging.getLogger(__name__)


class RetentionError(Fault, ValueError):
    """A policy states fewer hours than ``frames.anonymized`` is kept; the text names it and the remedy."""


def problem(settings: Settings, policy: Policy) -> str:
    """The policy's field, what is wrong with it and the remedy; empty: nothing is."""
    stated, kept = policy.retention_hours, settings.anonymized_retention_hours
    if stated >= kept:
        return ""
    return (
        f"retention_hours: {stated}, and frames.anonymized keeps {kept} h; lower SFUMATO_ANONYMIZED_RETENTION_HOURS "
        "and the topic's retention.ms, or raise it"
    )


def problems(settings: Settings, register: Register) -> list[str]:
    """Of the policies in force, a line each."""
    policies = [entry.policy for entry in register.in_force.values() if isinstance(entry, Timetable)]
    return [f"policy {policy.camera}: {said}" for policy in policies if (said := problem(settings, policy))]


def watch(settings: Settings, policies: PolicyStore) -> None:
    """At start: :class:`RetentionError` where SFUMATO_ANONYMIZED_RETENTION_MISMATCH is ``refuse``, else critical lines
    in the log. The metric follows the policies from then on."""
    found = partial(problems, settings)
    metrics.RETENTION_EXCEEDED.set_function(lambda: len(policies.look(found)))
    lines = policies.look(found)
    if lines and refuses(settings):
        raise RetentionError("\n".join(lines))
    for line in lines:
        log.critical("published frames are kept for longer than a policy says: %s", line)


def refuses(settings: Settings) -> bool:
    """Whether such a policy is refused, rather than said."""
    return settings.anonymized_retention_mismatch == "refuse"
