"""Search a topic itself: there is no second copy. Pages go on at the offsets where the last one stopped.

Every partition is read, since which one holds a key changes when partitions are added. Records come in the order of
their messages' timestamps, merged over the partitions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Generic, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from pydantic import Field

from sfumato.agents.connection import client_config
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.part import Part
from sfumato.schemas.topics import Topic

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SCANNED = 20_000
"""Messages that one page looks at, at most."""
WAITING = 1_000
"""Messages of one partition from which on it is not read further while others are behind."""
TIMEOUT = 20.0
"""Seconds that one page may take."""
WITHIN = 60_000
"""Milliseconds by which a message may be younger than its record."""


class SearchError(Fault, RuntimeError):
    """The topic cannot be read; says which, and why."""


class Positions(Part):
    """Where a search goes on: by partition, the next offset."""

    offsets: dict[int, Annotated[int, Field(ge=OFFSET_BEGINNING, lt=2**63)]]


class Query(Protocol[R_co]):
    """What is searched for. ``since`` (inclusive) and ``until`` (exclusive) by the record's own time."""

    @property
    def topic(self) -> Topic: ...

    @property
    def since(self) -> datetime | None: ...

    @property
    def until(self) -> datetime | None: ...

    def read(self, key: bytes | None, value: bytes | None) -> R_co | None:
        """The record of a message; None where it is not searched for. Raises :class:`EnvelopeError` where it breaks
        its contract: it is passed over."""
        ...


@dataclass(slots=True)
class _Partition(Generic[R]):
    """One partition: what was read of it and not given yet, as (timestamp, next offset, record or None)."""

    offset: int
    ended: bool = False
    paused: bool = False
    waiting: deque[tuple[int, int, R | None]] = field(default_factory=deque)


class Search(Generic[R]):
    """A search, from its beginning or from where a page stopped. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, query: Query[R], positions: Positions | None = None) -> None:
        """Raises :class:`SearchError`."""
        self._query = query
        self._topic = settings.topic(query.topic)
        self._consumer = Consumer(
            {
                **client_config(settings),
                "group.id": f"{settings.group_id}-search",  # required by the client; nothing is committed
