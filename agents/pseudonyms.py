"""Keyed pseudonyms of camera names, serials and places: the same for one recipient within one period, others elsewhere.

Each period has a random secret of its own, in a file under ``pseudonyms/`` in the state folder. From it HKDF-SHA256
(RFC 5869) derives a key per recipient, and AES-SIV (RFC 5297) encrypts the value: deterministic, authenticated, and
reversible without a table by whoever holds the secret. Destroying the file makes the period's pseudonyms irreversible
(``docs/decisions/0016-pseudonyms.md``).
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sfumato.agents.disk import sync
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault
from sfumato.schemas.metadata import NAMES, Metadata, MetadataField, Period
from sfumato.schemas.pseudonym import Reveal

log = logging.getLogger(__name__)

SECRET = 32
"""Bytes of a period's secret."""
PADDED = 32
"""Values are padded to a multiple of so many bytes, so that their length tells little."""
LONGEST = 255
"""Bytes of a value that may have a pseudonym."""
FORMATS = {Period.DAY: "%Y-%m-%d", Period.WEEK: "%G-W%V", Period.MONTH: "%Y-%m", Period.YEAR: "%Y"}
PERIOD = re.compile(r"\d{4}(-W\d\d|-\d\d(-\d\d)?)?")


class PseudonymError(Fault, ValueError):
    """The text says what to do, and holds neither value nor key."""


class UnknownPseudonymError(PseudonymError):
    """The pseudonym was not made for that recipient in that period, or its secret is gone."""


def period_of(moment: datetime, period: Period) -> str:
    """The name of the period that a moment is in, by UTC: 2026-11-25, 2026-W48, 2026-11 or 2026."""
    return moment.astimezone(UTC).strftime(FORMATS[period])


class Pseudonyms:
    """Thread-safe; several processes may use one state folder."""

    def __init__(self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder = settings.state_dir / "pseudonyms"
        self._now = now

    def pseudonymize(self, field: MetadataField, value: str, rules: Metadata) -> str | None:
        """The pseudonym of a value for the recipient in the period that it is now; None where it is too long, or names
        no recipient. Its form: the field's name, a dot, and letters and digits (base32)."""
        if rules.recipient is None or field not in NAMES:
            return None
        plain = value.encode()
        if len(plain) > LONGEST:
            return None
        padded = bytes([len(plain)]) + plain
        padded += b"\0" * (-len(padded) % PADDED)
        period = period_of(self._now(), rules.period)
        sealed = _cipher(self._secret(period), rules.recipient, period).encrypt(padded, [field.encode()])
        return f"{field}.{base64.b32encode(sealed).decode().rstrip('=').lower()}"

    def reveal(self, pseudonym: str, recipient: str, period: str) -> tuple[MetadataField, str]:
        """The field and the value. :class:`PseudonymError` where this is no pseudonym or period,
        :class:`UnknownPseudonymError` where it is none of that recipient and period, was changed, or its secret is
        gone."""
        name, _, text = pseudonym.partition(".")
        if name not in NAMES or re.fullmatch(r"[a-z2-7]+", text) is None:
            raise PseudonymError("pseudonym: not one; copy it whole, as serial.mfrgg…")
        try:
            sealed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
        except ValueError:
            raise PseudonymError("pseudonym: not whole; copy all of it") from None
        if base64.b32encode(sealed).decode().rstrip("=").lower() != text:
            raise UnknownPseudonymError(UNKNOWN)  # other letters for the same bytes
        secret = self._read(period)
        if secret is None:
            raise UnknownPseudonymError("period: has no secret here; it never had one, or it was destroyed")
        try:
            padded = _cipher(secret, recipient, period).decrypt(sealed, [name.encode()])
        except (InvalidTag, ValueError):
            raise UnknownPseudonymError(UNKNOWN) from None
        return MetadataField(name), padded[1 : 1 + padded[0]].decode()

    def periods(self) -> list[str]:
        """The periods whose pseudonyms can be reversed, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.key") if PERIOD.fullmatch(path.stem))

    def destroy(self, period: str) -> None:
        """Delete a period's secret: its pseudonyms can never be reversed again. :class:`UnknownPseudonymError`."""
        try:
            self._path(period).unlink()
        except FileNotFoundError:
            raise UnknownPseudonymError("period: has no secret here; it never had one, or it was destroyed") from None
        sync(self._folder)

    def _path(self, period: str) -> Path:
        if PERIOD.fullmatch(period) is None:
            raise PseudonymError("period: write it as 2026, 2026-11, 2026-W48 or 2026-11-25")
        return self._folder / f"{period}.key"

    def _read(self, period: str) -> bytes | None:
        try:
            secret = self._path(period).read_bytes()
        except FileNotFoundError:
            return None
        if len(secret) != SECRET:
            raise UnknownPseudonymError("period: its secret is damaged; restore its file in the state folder")
        return secret

    def _secret(self, period: str) -> bytes:
        """Of the period that it is now; made where there is none. Processes that make one at once get the same."""
        if (secret := self._read(period)) is not None:
            return secret
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._folder / f".{secrets.token_hex(8)}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(SECRET))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(part, self._path(period))
        finally:
            part.unlink()
        sync(self._folder)
        made = self._read(period)
        if made is None:
            raise UnknownPseudonymError("period: its secret was destroyed while it was made")
        return made


def record(asked: Reveal, caller: str, purpose: str, outcome: str) -> None:
    """The audit record of a reveal: who, which, why, with what outcome; never the value. One JSON line in the log."""
    told = asked.model_dump() | {"caller": caller, "purpose": purpose, "outcome": outcome}
    log.info("pseudonym reveal: %s", json.dumps(told))


UNKNOWN = "pseudonym: not one of this recipient and period"


def _cipher(secret: bytes, recipient: str, period: str) -> AESSIV:
    """AES-256-SIV with the recipient's key. The period is in the derivation too, so that a secret under another
    period's name opens nothing."""
    told = b"sfumato pseudonym 1\0" + period.encode() + b"\0" + recipient.encode()
    return AESSIV(HKDF(SHA256(), length=64, salt=None, info=told).derive(secret))
