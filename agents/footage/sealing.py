"""Raw frames sealed with AES-256-GCM under the key of their camera and hour of capture.

The value becomes nonce (12 bytes), ciphertext, tag (16 bytes); the headers stay, and two say how and under which hour.
All that the headers say is associated data: a frame that was relabelled, exchanged or replayed under another identity
does not open. Nonces are 96 random bits, so that no state has to survive a restart: NIST SP 800-38D (8.3) allows 2^32
messages under one key then, which one camera could only reach in an hour with more than a million frames a second.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sfumato.agents.footage.stores import KeyStore, UnopenedError, hour_of
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Reason

NONCE, TAG = 12, 16
"""Lengths in bytes."""
CACHED_SECONDS = 60.0
"""A key that was shredded is used for so long at most by a process that had it."""
CACHED_KEYS = 4096


class NotSealedError(UnopenedError):
    """The frame came in the clear, where it must not."""

    reason = Reason.NOT_SEALED


class SealBrokenError(UnopenedError):
    """Value and headers are not those that were sealed together, or not with this key."""

    reason = Reason.SEAL_BROKEN


class Ciphers:
    """Keys as ciphers, the newest kept and asked for again after :data:`CACHED_SECONDS`; what is older is let go at the
    next call, whatever that asks for. Thread-safe."""

    def __init__(self, key: Callable[[str, datetime], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        """``key``: of a camera and an hour. ``clock``: seconds."""
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, datetime], tuple[float, AESGCM]] = OrderedDict()

    def get(self, camera: str, hour: datetime) -> AESGCM:
        """Raises what the store raises, and keeps nothing then."""
        now = self._clock()
        with self._lock:
            self._let_go(now)
            _, cipher = self._known.get((camera, hour), (now, None))
        if cipher is None:
            cipher = AESGCM(self._key(camera, hour))  # outside the lock: the others do not wait for the store
            with self._lock:
                self._known[camera, hour] = now, cipher
                self._known.move_to_end((camera, hour))
                self._let_go(now)
        return cipher

    def _let_go(self, now: float) -> None:
        """Of the oldest, which come first."""
        while self._known:
            asked, _ = next(iter(self._known.values()))
            if now - asked < CACHED_SECONDS and len(self._known) <= CACHED_KEYS:
                return
            self._known.popitem(last=False)


class Sealer:
    """Seals frames; makes the keys. Thread-safe."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._ciphers = Ciphers(store.make, clock)

    def seal(self, frame: RawFrame) -> RawFrame:
        """KeyGoneError where the hour it was captured in was shredded; KeyStoreError where no key can be had now."""
        if frame.sealed_under is not None:
            raise ValueError(f"{frame.id} is sealed already")
        hour = hour_of(frame.captured_at)
        sealed = replace(frame, sealed_under=hour, payload=b"")
        nonce = os.urandom(NONCE)
        cipher = self._ciphers.get(frame.id.camera, hour)
        return replace(sealed, payload=nonce + cipher.encrypt(nonce, frame.payload, _bound(sealed)))


class Opener:
    """Opens frames; asks for keys and makes none. Thread-safe."""

    def __init__(self, store: KeyStore, *, required: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """``required`` False: frames that come in the clear are let through."""
        self._ciphers = Ciphers(store.key, clock)
        self._required = required

    def open(self, frame: RawFrame) -> RawFrame:
        """The frame as it was before it was sealed. :class:`UnopenedError` where it stays closed for good,
        KeyStoreError where the store cannot say now."""
        hour = frame.sealed_under
        if hour is None:
            if self._required:
                raise NotSealedError("the frame is not sealed, and SFUMATO_RAW_SEALING is on")
            return frame
        nonce, rest = frame.payload[:NONCE], memoryview(frame.payload)[NONCE:]
        if len(rest) < TAG:
            raise SealBrokenError("the value is shorter than a seal")
        try:
            payload = self._ciphers.get(frame.id.camera, hour).decrypt(nonce, rest, _bound(frame))
        except InvalidTag:
            raise SealBrokenError("value and headers are not those that were sealed together") from None
        return replace(frame, payload=payload, sealed_under=None)


def _bound(frame: RawFrame) -> bytes:
    """All that a sealed frame's headers say, in one order and with lengths, so that no two frames share it."""
    parts = [b"sfumato raw frame 1"]
    for name, value in sorted(frame.to_message().headers):
        text = value if isinstance(value, bytes) else (value or "").encode()
        parts += [struct.pack(">II", len(name), len(text)), name.encode(), text]
    return b"".join(parts)
