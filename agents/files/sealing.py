"""Raw footage at rest: sealed with AES-256-GCM, segment by segment, under a key of its own per upload.

An upload's key is random, lies in its row of the database, wrapped by a master key from a file, and is gone with the
row: what then is left of the segments anywhere can no longer be read. Each segment's nonce is its number and 64 random
bits, so that a segment written again after a crash has another. Its number, its length and the upload are authenticated
with it: segments cannot be exchanged, reordered, shortened or taken from another upload. That none is missing at the
end is authenticated by the upload's closing seal (docs/decisions/0014-sealed-uploads.md).
"""

from __future__ import annotations

import base64
import binascii
import bisect
import io
import os
import re
import secrets
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault

SEGMENT = 8 * 1024 * 1024
"""Bytes of a segment, at most."""
NONCE, TAG, KEY = 12, 16, 32
"""Lengths in bytes."""
OVERHEAD = NONCE + TAG
MOST_SEGMENTS = 65_536
DETAILS, CLOSING = 2**32 - 1, 2**32 - 2
"""Numbers of what is sealed beside the segments."""
CACHED = 3
"""Segments that a reader keeps: films interleave streams, and go back and forth by little."""
_LINE = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}) (?P<key>[A-Za-z0-9+/]{43}=)")


class SealError(Fault, OSError):
    """Sealed data that is not what was sealed, or a key that cannot be used. Never holds data or keys."""


class MasterKeys:
    """The keys that wrap the keys of uploads: the first of the file wraps, all of them unwrap."""

    def __init__(self, settings: Settings) -> None:
        """Reads the file, or makes it with a first key. Raises :class:`SealError`."""
        self.path = settings.sealing_key_file or settings.state_dir / "sealing.key"
        if not self.path.exists():
            _make(self.path)
        self._keys = _read(self.path)
        self._first = next(iter(self._keys))

    def wrap(self, key: bytes, upload: str) -> tuple[str, bytes]:
        """The master key's id, and the key of an upload wrapped by it."""
        nonce = os.urandom(NONCE)
        wrapped = AESGCM(self._keys[self._first]).encrypt(nonce, key, _wrapping(self._first, upload))
        return self._first, nonce + wrapped

    def unwrap(self, id: str, wrapped: bytes, upload: str) -> bytes:
        """Raises :class:`SealError` where the master key is gone or the wrapped key is not this upload's."""
        if id not in self._keys:
            raise SealError(f"SFUMATO_SEALING_KEY_FILE: {self.path} has no key {id}; put it back, below the first line")
        try:
            return AESGCM(self._keys[id]).decrypt(wrapped[:NONCE], wrapped[NONCE:], _wrapping(id, upload))
        except (InvalidTag, ValueError):
            raise SealError(f"the key of upload {upload} does not open with the master key {id}") from None


def _make(path: Path) -> None:
    """A file appears whole or not at all, and the first of several processes wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".sealing-") as file:  # mode 0600
        file.write(f"{secrets.token_hex(4)} {base64.b64encode(os.urandom(KEY)).decode()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            return


def _read(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise SealError(f"SFUMATO_SEALING_KEY_FILE: others may read {path}; chmod 600 it")
            lines = file.read().decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise SealError(f"SFUMATO_SEALING_KEY_FILE: {path} is not text") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        try:
            key = base64.b64decode(found["key"], validate=True) if found else b""
        except binascii.Error:
            key = b""
        if found is None or len(key) != KEY or found["id"] in keys:
            wanted = "a new ID, a space, 32 bytes in Base64"
            raise SealError(f"SFUMATO_SEALING_KEY_FILE: line {number} of {path}: wants {wanted}")
        keys[found["id"]] = key
    if not keys:
        raise SealError(f"SFUMATO_SEALING_KEY_FILE: {path} holds no key")
    return keys


def _wrapping(id: str, upload: str) -> bytes:
    return f"sfumato upload key\0{id}\0{upload}".encode()


class Seal:
    """Seals and opens the segments of one upload."""

    def __init__(self, key: bytes, upload: str) -> None:
        self._cipher = AESGCM(key)
        self._upload = upload.encode()

    def close(self, number: int, data: bytes | bytearray | memoryview) -> bytes:
        """``number``: of the segment, from 0, or one of the constants above. Another nonce each time."""
        nonce = struct.pack(">I", number) + os.urandom(8)
        return nonce + self._cipher.encrypt(nonce, data, self._bound(number, len(data)))

    def open(self, number: int, length: int, sealed: bytes) -> bytes:
        """The data. Raises :class:`SealError` where it is not exactly what was sealed under this number."""
        if len(sealed) != length + OVERHEAD or sealed[:4] != struct.pack(">I", number):
            raise SealError(f"segment {number} is not the one that was sealed")
        try:
            return self._cipher.decrypt(sealed[:NONCE], memoryview(sealed)[NONCE:], self._bound(number, length))
        except InvalidTag:
            raise SealError(f"segment {number} is not the one that was sealed") from None

    def finish(self, segments: int, length: int) -> bytes:
        """The closing seal: so many segments, so many bytes, and nothing after them."""
        return self.close(CLOSING, struct.pack(">IQ", segments, length))

    def check(self, closing: bytes, segments: int, length: int) -> None:
        """Raises :class:`SealError` where the upload was not finished with so many segments and bytes."""
        if self.open(CLOSING, 12, closing) != struct.pack(">IQ", segments, length):
            raise SealError("segments are missing or too many")

    def _bound(self, number: int, length: int) -> bytes:
        return b"sfumato segment\0" + self._upload + struct.pack(">IQ", number, length)


@dataclass(frozen=True, slots=True)
class Part:
    """One segment: bytes of plain data, and the name of the blob that holds it sealed."""

    length: int
    blob: str


class SealedReader(io.RawIOBase):
    """The plain bytes of sealed segments as a seekable file: a few segments in memory, nothing on the disk.

    One thread at a time. Reading raises :class:`SealError` or FileNotFoundError, never wrong bytes."""

    def __init__(self, seal: Seal, parts: Sequence[Part], fetch: Callable[[str], bytes]) -> None:
        self._seal = seal
        self._parts = parts
        self._fetch = fetch
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.length)
        self._position = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        return self._starts[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        """As few bytes as lie in one segment may come; 0: the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._position >= self.size or not view:
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        offset = self._position - self._starts[number]
        found = memoryview(self._segment(number))[offset : offset + len(view)]
        view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        self._cache.clear()
        super().close()

    def _segment(self, number: int) -> bytes:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        while len(self._cache) >= CACHED:
            self._cache.popitem(last=False)
        part = self._parts[number]
        self._cache[number] = self._seal.open(number, part.length, self._fetch(part.blob))
        return self._cache[number]
