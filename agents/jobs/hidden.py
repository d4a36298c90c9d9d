"""A job's secrets at rest: credentials of its destinations and URLs of its sources, which may hold tokens."""

from __future__ import annotations

import json
import os
from typing import Any

from sfumato.agents.files.sealing import KEY, MasterKeys, Seal

NUMBER = 0
"""Under which they are sealed: a job has one such text."""


def seal(keys: MasterKeys, job: str, secrets: dict[str, Any]) -> bytes:
    """A job's secrets as its row keeps them: under a key of their own, wrapped by the master key."""
    key = os.urandom(KEY)
    id, wrapped = keys.wrap(key, job)
    data = json.dumps(secrets).encode()
    parts = (id.encode(), wrapped, len(data).to_bytes(4, "big"), Seal(key, job).close(NUMBER, data))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def unseal(keys: MasterKeys, job: str, sealed: bytes) -> dict[str, Any]:
    """Raises :class:`~sfumato.agents.files.sealing.SealError`."""
    parts, at = [], 0
    while at < len(sealed):
        length = int.from_bytes(sealed[at : at + 4], "big")
        parts.append(sealed[at + 4 : at + 4 + length])
        at += 4 + length
    id, wrapped, length_of, data = parts
    key = keys.unwrap(id.decode(), wrapped, job)
    found: dict[str, Any] = json.loads(Seal(key, job).open(NUMBER, int.from_bytes(length_of, "big"), data))
    return found
