"""The stores of the keys that seal raw footage: one random key of 256 bits per camera and UTC hour of capture.

The hour of capture, not that of sealing, because a retention period, a subject's request and ``sfumato keys shred
--before`` all speak of when somebody was filmed. The two differ only around a full hour.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import ClassVar, NamedTuple, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import format_time
from sfumato.schemas.fault import Fault
from sfumato.schemas.frame import HOUR
from sfumato.schemas.outcome import Reason

KEY = 32
"""Bytes of a key."""


class KeyStoreError(Fault, RuntimeError):
    """The store cannot be used, now or as it is set up. It says nothing about whether a key exists: ask again later.
    ``shredded``: the hours that were shredded all the same."""

    def __init__(self, text: str, shredded: Collection[datetime] = ()) -> None:
        super().__init__(text)
        self.shredded = shredded


class KeySettingsError(KeyStoreError):
    """The settings name no store that could be used; asking again does not help."""


class UnopenedError(Fault, RuntimeError):
    """A frame that stays sealed however often it is tried. The text holds neither key nor pixels."""

    reason: ClassVar[Reason]


class KeyMissingError(UnopenedError):
    """The store was asked and has no key for this camera and hour, and shredded none."""

    reason = Reason.KEY_MISSING


class KeyGoneError(UnopenedError):
    """The key was shredded, at ``shredded_at``."""

    reason = Reason.KEY_SHREDDED

    def __init__(self, camera: str, hour: datetime, shredded_at: datetime) -> None:
        super().__init__(f"the key of {camera}, {named(hour)}, was shredded at {format_time(shredded_at)}")
        self.shredded_at = shredded_at


class KeyHour(NamedTuple):
    """An hour that has or had a key."""

    hour: datetime
    shredded_at: datetime | None


class KeyStore(Protocol):
    """What a key store does. Thread-safe; several processes use one. Hours are those of :func:`hour_of`.

    A provider (Vault, a cloud's key management) must guarantee:

    * One key per camera and hour, also where two processes call :meth:`make` at once: all get the same.
    * A key lies in the store, durably, before :meth:`make` returns it: frames sealed with it may already be on Kafka.
    * :meth:`shred` is final: once it returned, no :meth:`key`, :meth:`make`, version history or undelete of the
      provider gives the key again, and the hour gets no other key. Where the provider keeps a deleted key for days
      (most clouds do), that waiting time belongs into the answer that a data protection officer gets.
    * :class:`KeyMissingError` only where the store answered and surely has none; :class:`KeyStoreError` for what may
      mend itself (no network, no permission, throttled). Frames are dropped for the first, kept for the second.
    * No key in logs, errors or metrics.
    """

    def key(self, camera: str, hour: datetime) -> bytes:
        """32 bytes. :class:`KeyMissingError`, :class:`KeyGoneError`, :class:`KeyStoreError`."""

    def make(self, camera: str, hour: datetime) -> bytes:
        """The key, made where there is none. :class:`KeyGoneError`, :class:`KeyStoreError`."""

    def shred(self, camera: str, before: datetime, keep: Collection[datetime] = ()) -> list[datetime]:
        """Delete the keys of the hours that ended at ``before`` or earlier, but not those of the hours to ``keep``;
        those that still had one, sorted. :class:`KeyStoreError`; what can be is shredded before."""

    def hours(self, camera: str) -> list[KeyHour]:
        """The camera's hours, sorted."""

    def cameras(self) -> list[str]:
        """The cameras that have or had keys, sorted."""

    def close(self) -> None:
        """Let go of connections; nobody uses it any more."""


def hour_of(moment: datetime) -> datetime:
    """The UTC hour a moment is in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def named(hour: datetime) -> str:
    """As in headers and lists: 2026-11-25T13Z."""
    return hour.astimezone(UTC).strftime(HOUR)


def ended(hour: datetime, before: datetime) -> bool:
    """Whether all of an hour lies before a moment."""
    return hour + timedelta(hours=1) <= before


def among(failures: Collection[object]) -> str:
    """That a failure is not the only one, to be put behind it."""
    return f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""


def make(settings: Settings) -> KeyStore:
    """The store of these settings; :class:`KeySettingsError` where its name is unknown or its settings are not valid,
    :class:`KeyStoreError` where it does not answer."""
    if settings.keys_store not in STORES:
        raise KeySettingsError(f"SFUMATO_KEYS_STORE: {settings.keys_store!r} is none of {', '.join(STORES)}")
    return STORES[settings.keys_store](settings)


class DerivedKeys:
    """The store ``environment``: keys derived from one secret by HKDF-SHA256 (RFC 5869). For tests and trying out."""

    def __init__(self, settings: Settings) -> None:
        try:
            self._secret = base64.b64decode(settings.keys_secret.get_secret_value(), validate=True)
        except binascii.Error:
            self._secret = b""
        if len(self._secret) != KEY:
            raise KeySettingsError("SFUMATO_KEYS_SECRET: wants 32 random bytes in Base64: `openssl rand -base64 32`")

    def key(self, camera: str, hour: datetime) -> bytes:
        info = f"sfumato raw footage\0{camera}\0{named(hour)}".encode()
        return HKDF(SHA256(), KEY, salt=None, info=info).derive(self._secret)

    make = key

    def shred(self, camera: str, before: datetime, keep: Collection[datetime] = ()) -> list[datetime]:
        raise KeyStoreError(
            "SFUMATO_KEYS_STORE: the keys of `environment` are derived from one secret, so that none can be deleted "
            "alone; use `files` or `database`, or destroy the secret and with it every key"
        )

    def hours(self, camera: str) -> list[KeyHour]:
        """None are listed: nothing is kept."""
        return []

    def cameras(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def _files(settings: Settings) -> KeyStore:
    from sfumato.agents.footage.key_files import KeyFiles

    return KeyFiles(settings.keys_dir or settings.state_dir / "keys")


def _database(settings: Settings) -> KeyStore:
    from sfumato.agents.footage.key_table import KeyTable  # with a database that workers otherwise do without

    return KeyTable.open(settings)


STORES: dict[str, Callable[[Settings], KeyStore]] = {
    "files": _files,
    "database": _database,
    "environment": DerivedKeys,
}
