"""Signed notes and checkpoints as C2SP writes them, so that the tools of others verify ours.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint. Signatures are Ed25519 (type 0x01). A verifier
key reads ``name+hash+base64``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sfumato.schemas.fault import Fault

ED25519 = b"\x01"
MAX_NOTE_BYTES = 1_000_000
_SIGNATURE = re.compile(r"— (?P<name>[^\s+]+) (?P<bytes>[A-Za-z0-9+/]+=*)\n")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(Fault, ValueError):
    """A note, checkpoint or verifier key that is not well-formed, or not signed by the key. Says what is wrong."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a key that signs notes."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """4 bytes by which a note's signature names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read ``name+hash+base64``. Raises :class:`NoteError`."""
        name, _, rest = text.strip().partition("+")
        id, _, encoded = rest.partition("+")
        key = _decode(encoded, "verifier key")
        if not is_name(name) or len(key) != 33 or key[:1] != ED25519:
            raise NoteError("verifier key: wants NAME+HASH+BASE64 of an Ed25519 key")
        found = cls(name, key[1:])
        if found.id.hex() != id:
            raise NoteError("verifier key: its hash is not that of its name and key")
        return found


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs notes under a name."""

    name: str
    key: Ed25519PrivateKey

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise NoteError("a key's name is not empty and holds neither blanks nor +")

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.key.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """The signed note of a text that ends with a newline. Raises :class:`NoteError` where it does not, or where
        it holds other control characters."""
        check_text(text)
        signature = self.verifier.id + self.key.sign(text.encode())
        return f"{text}\n— {self.name} {base64.b64encode(signature).decode()}\n"


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note that the key has signed; signatures of others are passed over. Raises :class:`NoteError`."""
    if len(note.encode(errors="replace")) > MAX_NOTE_BYTES:
        raise NoteError(f"note: longer than {MAX_NOTE_BYTES} bytes")
    text, separator, block = note.rpartition("\n\n")
    text += "\n"
    lines = block.splitlines(keepends=True)
    if not separator or not lines:
        raise NoteError("note: without a signature")
    check_text(text)
    signed = False
    for line in lines:
        found = _SIGNATURE.fullmatch(line)
        if found is None:
            raise NoteError("note: a line after the text is no signature")
        signature = _decode(found["bytes"], "note's signature")
        if found["name"] != key.name or signature[:4] != key.id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], text.encode())
        except (InvalidSignature, ValueError):
            raise NoteError(f"note: not signed by {key.name}") from None
        signed = True
    if not signed:
        raise NoteError(f"note: not signed by {key.name}")
    return text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: the first ``size`` leaves of the log ``origin`` have this ``root`` (32 bytes). ``extensions``:
    further lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text. Raises :class:`NoteError`."""
        check_text(text)
        origin, *rest = text[:-1].split("\n")
        if not origin or len(rest) < 2 or not _SIZE.fullmatch(rest[0]) or "" in rest:
            raise NoteError("checkpoint: wants an origin, a size and a root, each on a line of its own")
        root = _decode(rest[1], "checkpoint's root")
        if len(root) != 32:
            raise NoteError("checkpoint: its root is not 32 bytes long")
        return cls(origin, int(rest[0]), root, tuple(rest[2:]))


def is_name(name: str) -> bool:
    """Whether a key may be called so."""
    return bool(name) and "+" not in name and not any(letter.isspace() or _is_half(letter) for letter in name)


def check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("note: its text does not end with a newline")
    if any(ord(letter) < 0x20 and letter != "\n" for letter in text):
        raise NoteError("note: a control character in its text")
    if any(map(_is_half, text)):
        raise NoteError("note: its text is not Unicode")


def _is_half(letter: str) -> bool:
    """Half of a surrogate pair, as JSON can bring it: no UTF-8 has it."""
    return "\ud800" <= letter <= "\udfff"


def _decode(encoded: str, what: str) -> bytes:
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError(f"{what}: not Base64") from None
    if base64.b64encode(decoded).decode() != encoded:
        raise NoteError(f"{what}: not the Base64 of its bytes")
    return decoded
