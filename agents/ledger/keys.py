"""The key that signs checkpoints: Ed25519, in a PEM file that nobody else may read.

The first key of the file signs; those below it signed before and are still believed (docs/ledger.md).
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sfumato.agents.ledger.note import NoteError, Signer, VerifierKey, open_note
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault

_BLOCK = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


class KeyFileError(Fault, ValueError):
    """The ledger's key cannot be used; the text names the setting and what to do. Never holds a key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs, and whose signatures are believed, the newest first."""

    signer: Signer
    verifiers: tuple[VerifierKey, ...]

    def open(self, note: str) -> str:
        """The text of a note that one of the keys has signed. Raises :class:`NoteError`."""
        for verifier in self.verifiers[:-1]:
            try:
                return open_note(note, verifier)
            except NoteError:
                continue
        return open_note(note, self.verifiers[-1])


def load(settings: Settings) -> Keys:
    """The keys of the file. One that is configured must be there; without a setting it is made in the state folder.
    Raises :class:`KeyFileError`."""
    path = settings.ledger_key_file
    if path is None:
        path = settings.state_dir / "ledger.key"
        if not path.exists():
            _make(path)
    signers = [Signer(settings.ledger_origin, key) for key in _read(path)]
    return Keys(signers[0], tuple(signer.verifier for signer in signers))


def _read(path: Path) -> list[Ed25519PrivateKey]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(f"SFUMATO_LEDGER_KEY_FILE: others may read {path}; chmod 600 it")
            text = file.read()
    except OSError as error:
        raise KeyFileError(
            f"SFUMATO_LEDGER_KEY_FILE: {path}: {error.strerror}; put the key back (no other can go on with its logs)"
        ) from None
    keys = []
    for number, block in enumerate(_BLOCK.findall(text), 1):
        try:
            key = load_pem_private_key(block, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"SFUMATO_LEDGER_KEY_FILE: key {number} of {path} is no unencrypted Ed25519 key")
        keys.append(key)
    if not keys:
        wanted = "openssl genpkey -algorithm ed25519"
        raise KeyFileError(f"SFUMATO_LEDGER_KEY_FILE: {path} holds no private key in PEM; `{wanted}` makes one")
    return keys


def _make(path: Path) -> None:
    """A file appears whole or not at all, and the first of several processes wins."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".ledger-") as file:  # mode 0600
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)
    except FileExistsError:
        return
    except OSError as error:
        raise KeyFileError(f"SFUMATO_STATE_DIR: {path} cannot be made: {error.strerror}") from None
