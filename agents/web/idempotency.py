"""``Idempotency-Key``: what creates can be sent again without creating twice.

An endpoint on a :class:`sfumato.agents.web.formats.Negotiated` router takes ``_: Idempotent = None`` as its last
parameter, so that whoever may not call it is refused before. The first answer is kept for a day and given to whoever
sends the same key and body again; errors are not kept, since nothing was created. Not for
what answers with a secret: it would lie in the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from sqlalchemy import JSON, LargeBinary, SmallInteger, String, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller
from sfumato.agents.database import Base, Database, Instant
from sfumato.agents.web.formats import AlreadyAnswered
from sfumato.agents.web.problems import Refusal

KEPT_FOR = timedelta(hours=24)
CLAIMED_FOR = timedelta(minutes=5)
"""After which a call that never ended, because its process did, no longer stands in the way."""
LARGEST = 64 * 1024
"""Bytes of an answer that is kept; a larger one is made anew."""
RETRY_AFTER = "1"
REPLAYED = "Idempotent-Replayed"
KEY = re.compile(r'"?[\x21\x23-\x7e]{1,255}"?')
SAID = ("upload-length", "upload-defer-length", "upload-metadata", "upload-checksum", "content-length")
_OWN = {"content-length", "x-request-id", "date", "vary"}


class Answer(Base):
    """``operation``: method and path; ``status`` None: not answered yet."""

    __tablename__ = "answers"

    caller: Mapped[str] = mapped_column(String(500), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    operation: Mapped[str] = mapped_column(String(1000))
    body_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    status: Mapped[int | None] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer a key."""

    caller: str
    key: str
    operation: str
    body_hash: bytes


class Answers:
    """The answers in the database. Thread-safe; several processes may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, claim: Claim) -> Answer | None:
        """The answer that was given; None: there is none, and the claim is the caller's. HTTPException 409 while the
        first call is under way, 422 where the key was used for something else."""
        now = datetime.now(UTC)
        try:
            with self._database.begin() as session:
                session.execute(delete(Answer).where(Answer.expires_at <= now))
                known = session.get(Answer, (claim.caller, claim.key))
                if known is None:
                    session.add(
                        Answer(
                            caller=claim.caller,
                            key=claim.key,
                            operation=claim.operation,
                            body_hash=claim.body_hash,
                            expires_at=now + CLAIMED_FOR,
                        )
                    )
        except IntegrityError:
            raise _under_way() from None
        if known is None:
            return None
        if (known.operation, known.body_hash) != (claim.operation, claim.body_hash):
            raise Refusal(
                422,
                "Idempotency-Key: was used for another request; make a new key for each",
                kind="idempotency-key-reused",
            )
        if known.status is None:
            raise _under_way()
        return known

    def keep(self, claim: Claim, status: int, headers: dict[str, str], body: bytes) -> None:
        with self._database.begin() as session:
            answer = session.get(Answer, (claim.caller, claim.key))
            if answer is not None:
                answer.status, answer.headers, answer.body = status, headers, body
                answer.expires_at = datetime.now(UTC) + KEPT_FOR

    def release(self, claim: Claim) -> None:
        """The call came to nothing that could be kept."""
        with self._database.begin() as session:
            own = (Answer.caller == claim.caller, Answer.key == claim.key, Answer.status.is_(None))
            session.execute(delete(Answer).where(*own))


Key = Annotated[
    str | None,
    Header(
        description="A new text for each thing to create; sent again with the same body, nothing is created twice",
        max_length=255,
        pattern=f"^{KEY.pattern}$",
    ),
]


async def _claim_by_body(request: Request, idempotency_key: Key = None) -> None:
    if idempotency_key is not None:
        await _claim(request, idempotency_key, await request.body())


async def _claim_by_headers(request: Request, idempotency_key: Key = None) -> None:
    """A body that is too large to be held is not read: what it belongs to is said in the headers."""
    if idempotency_key is not None:
        said = [request.headers.get(name, "") for name in SAID]
        await _claim(request, idempotency_key, "\n".join(said).encode())


async def _claim(request: Request, idempotency_key: str, asked: bytes) -> None:
    caller: Caller = request.state.caller  # the gate's
    body_hash = hashlib.sha256(asked).digest()
    claim = Claim(caller.id, idempotency_key.strip('"'), f"{request.method} {request.url.path}", body_hash)
    answer = await asyncio.to_thread(Answers(request.app.state.database).begin, claim)
    if answer is not None:
        headers = {**(answer.headers or {}), REPLAYED: "true"}
        raise AlreadyAnswered(Response(answer.body or b"", answer.status or 200, headers))
    request.state.settle = partial(_settle, request, claim)


Idempotent = Annotated[None, Depends(_claim_by_body)]
IdempotentByHeaders = Annotated[None, Depends(_claim_by_headers)]
"""For uploads: the same headers, rather than the same body, are the same request."""


async def _settle(request: Request, claim: Claim, response: Response | None) -> None:
    """Keep the answer of a claimed request; None: it ended in an error."""
    answers, body = Answers(request.app.state.database), getattr(response, "body", None)
    if response is None or response.status_code >= 400 or not isinstance(body, bytes) or len(body) > LARGEST:
        await asyncio.to_thread(answers.release, claim)
        return
    headers = {name: value for name, value in response.headers.items() if name not in _OWN}
    await asyncio.to_thread(answers.keep, claim, response.status_code, headers, body)


def _under_way() -> HTTPException:
    return HTTPException(
        409, "Idempotency-Key: the first request with it is not answered yet", {"Retry-After": RETRY_AFTER}
    )
