"""What is told of subject requests: one message for each act, taken by Kafka before the act takes effect."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException

from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.disclosure import Act, Disclosure
from sfumato.schemas.subject_request import Clip, SubjectRequest
from sfumato.schemas.topics import DISCLOSURES

TOLD_WITHIN = 5.0
"""Seconds for Kafka to take a message; without it the act does not happen."""
ONCE = frozenset(Act) - {Act.APPROVED, Act.REFUSED, Act.DELIVERED, Act.SHREDDED}
"""Acts that a request has once at most: told again after a crash, they are the same message."""


class UntoldError(RuntimeError):
    """Kafka does not take the message, so what it tells of must not happen."""


class Disclosures:
    """Thread-safe."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def tell(self, disclosure: Disclosure) -> None:
        """Returns once all replicas have it. :class:`UntoldError` where that is not known in time; it may then be told
        of something that did not happen, never the other way round."""
        taken = threading.Event()
        failures: list[KafkaError] = []

        def told(error: KafkaError | None) -> None:
            failures.extend([error] if error is not None else [])
            taken.set()

        try:
            self._opened().send(DISCLOSURES, disclosure.to_message(), told)
        except (BufferError, KafkaException) as error:
            raise UntoldError(f"the topic disclosures cannot be written: {type(error).__name__}") from None
        if not taken.wait(TOLD_WITHIN) or failures:
            raise UntoldError("the topic disclosures cannot be written: the broker does not take it")

    def close(self, timeout: float = 5.0) -> None:
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout)
                self._producer = None

    def _opened(self) -> Producer:
        with self._lock:
            if self._producer is None:
                self._producer = Producer(self._settings, client_id=self._client_id, idempotent=False)
            return self._producer


def about(
    request: SubjectRequest,
    act: Act,
    by: str,
    *,
    note: str | None = None,
    clip: Clip | None = None,
    range: str | None = None,
) -> Disclosure:
    """What is told of a request now. ``note``: its first 500 characters are."""
    return Disclosure(
        id=identity(request.id, act, clip),
        request=request.id,
        act=act,
        at=datetime.now(UTC),
        by=by,
        kind=request.kind,
        camera=request.camera,
        epoch=request.epoch,
        sequence=request.sequence,
        box=(request.box.left, request.box.top, request.box.right, request.box.bottom),
        since=request.since,
        until=request.until,
        reason=request.reason,
        case=request.case,
        needed=request.needed,
        note=note[:500] if note is not None else None,
        sha256=clip.sha256 if clip else None,
        frames=clip.frames if clip else None,
        shown=clip.shown if clip else None,
        range=range,
    )


def identity(request: str, act: Act, clip: Clip | None = None) -> str:
    """The id of a message about a request. Each clip is made once: where the first is told of and lost, the next
    attempt makes another."""
    if act is Act.MADE and clip is not None:
        return f"{request}/{act}/{clip.sha256[:16]}"
    return f"{request}/{act}" if act in ONCE else f"{request}/{act}/{secrets.token_hex(8)}"
