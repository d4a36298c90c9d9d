"""The signature that heads and covers carry on ``ledger.heads``: what a ledger believes of its past, it has signed.

The value of a message is a line, then the JSON (:mod:`sfumato.schemas.head`)::

    base64(key id, 4 bytes || Ed25519 signature, 64 bytes) LF JSON

The key id is that of a note (:mod:`~sfumato.agents.ledger.note`). Signed is ``DOMAIN || length of the message's key, 4
bytes, big-endian || the message's key || JSON``. DOMAIN begins with a zero byte, which no note's text can hold, so no
signature of a checkpoint is one of a head, nor the other way round; and what stands under one key, a log or a
partition, is not believed under another.

A signature does not say that a head is the newest. What is older and signed may be written again, and after the topic
is compacted it may be all that is left. It is harmless: the store keeps the longest head and the farthest cover that it
has seen, a cover counts as far as each log has the leaves that it says, and from an older head a ledger comes to the
same leaves once more. Where it could not, as events since were deleted, the signed checkpoints show it, and the ledger
does not go on (:meth:`sfumato.agents.ledger.book.Book.open`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sfumato.agents.ledger.note import NoteError, Signer, VerifierKey
from sfumato.schemas.frame import Message

DOMAIN = b"\x00sfumato ledger.heads v1\x00"
_ID, _SIGNATURE = 4, 64


def stamp(message: Message, signer: Signer) -> Message:
    """The message of a head or a cover, signed."""
    key = message.key or b""
    signature = signer.verifier.id + signer.key.sign(_signed(key, message.value))
    return message._replace(value=base64.b64encode(signature) + b"\n" + message.value)


def unstamp(key: bytes | None, value: bytes | None, verifiers: Iterable[VerifierKey]) -> bytes:
    """The JSON of a message that one of the keys has signed. Raises :class:`NoteError`."""
    line, _, json = (value or b"").partition(b"\n")
    try:
        stamp = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        stamp = b""
    if len(stamp) != _ID + _SIGNATURE:
        raise NoteError("it does not begin with a signature")
    for verifier in verifiers:
        if verifier.id != stamp[:_ID]:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(verifier.public).verify(stamp[_ID:], _signed(key or b"", json))
        except InvalidSignature:
            continue
        return json
    raise NoteError("it is not signed by the ledger's key")


def _signed(key: bytes, json: bytes) -> bytes:
    return DOMAIN + len(key).to_bytes(4, "big") + key + json
