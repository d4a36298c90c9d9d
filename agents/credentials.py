"""Content credentials: a signed C2PA manifest inside a masked file says that and how it was masked.

No thumbnail, no ingredient, no hash of the original, no network but a timestamp authority where one is set
(``docs/decisions/0017-credentials.md``).
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sfumato.agents.settings import Settings
from sfumato.models.watched import Watched
from sfumato.schemas.credential import LABEL, Statement
from sfumato.schemas.fault import Fault

CONTENT_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "video/mp4", "video/quicktime"})
"""What a manifest can be embedded in. WebM and Matroska have no place for one in C2PA 2."""
ACTIONS = "c2pa.actions.v2"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""IPTC's word that comes closest to a capture that an algorithm masked."""
BUILDING: dict[str, Any] = {
    "version": 1,
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {
        "merkle_tree_chunk_size_in_kb": 1024,
        "merkle_tree_max_proofs": 0,
        "backing_store_memory_threshold_in_mb": 16,
    },
    "builder": {"thumbnail": {"enabled": False}, "created_assertion_labels": [LABEL, ACTIONS]},
}
"""Films are hashed in pieces of a mebibyte and, from 16 MB on, kept in a nameless temporary file on the way (TMPDIR).
By its own defaults the library holds up to half a gigabyte in memory for either."""
READING: dict[str, Any] = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
}
VALID = timedelta(days=365)
"""Of a certificate that is made here."""
MARGIN = timedelta(days=7)
"""So long before its end another is made."""


class CredentialsError(Fault, RuntimeError):
    """A file cannot be signed; the text names the setting where one is at fault."""


class Credentials:
    """Signs files. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`CredentialsError` where certificate and key cannot be used."""
        chain, key = _configured(settings) or _self_made(settings.state_dir / "credentials.pem")
        self.chain = chain
        """The certificates in PEM, the signing one first. A self-made one ends with a root that nobody trusts yet."""
        self._agent = {"name": "sfumato", "version": version("sfumato")}
        try:
            told = c2pa.C2paSignerInfo(settings.c2pa_algorithm, chain, key, settings.c2pa_timestamp_url or None)
            self._context = c2pa.Context.from_dict(BUILDING, signer=c2pa.Signer.from_info(told))
            self._reading = c2pa.Context.from_dict(READING)
        except c2pa.C2paError as error:
            raise CredentialsError(f"SFUMATO_C2PA_CERTIFICATE, _KEY or _ALGORITHM: {type(error).__name__}") from None

    @staticmethod
    def supports(content_type: str) -> bool:
        """Whether files of this type can carry a manifest."""
        return content_type in CONTENT_TYPES

    def sign(self, content_type: str, payload: bytes, statement: Statement) -> bytes:
        """The file with its manifest. Raises :class:`CredentialsError`."""
        signed = io.BytesIO()
        self._sign(content_type, io.BytesIO(payload), signed, statement)
        return signed.getvalue()

    def sign_file(
        self,
        content_type: str,
        source: Path,
        target: Path,
        statement: Statement,
        seen: Callable[[], None] | None = None,
    ) -> None:
        """Write the file with its manifest to ``target``, which is another path. ``seen`` is called as long as reading
        goes on; what it raises ends it. Raises :class:`CredentialsError`; what is at ``target`` is then no whole
        file."""
        with source.open("rb") as read, target.open("w+b") as written:
            self._sign(content_type, read, written, statement, seen)

    def _sign(
        self,
        content_type: str,
        source: BinaryIO,
        target: BinaryIO,
        statement: Statement,
        seen: Callable[[], None] | None = None,
    ) -> None:
        if not self.supports(content_type):
            raise CredentialsError(f"{content_type}: cannot carry a manifest; {', '.join(sorted(CONTENT_TYPES))} can")
        if content_type.startswith("video/") and _boxes(source).count(b"mdat") > 1:
            # The library's hash of several is now and then one that its reader refuses.
            raise CredentialsError(
                "the film has several boxes of pictures (mdat); write it again as a plain MP4 or MOV"
            )
        try:
            with c2pa.Builder.from_json(json.dumps(self._manifest(statement)), self._context) as builder:
                builder.sign(content_type, source if seen is None else Watched(source, seen), target)
            # The library does not do it by itself, and has made manifests that its own reader refuses.
            target.seek(0)
            signed = target if seen is None else Watched(target, seen)
            with c2pa.Reader(content_type, signed, context=self._reading) as read:
                state = read.get_validation_state()
        except c2pa.C2paError as error:
            raise CredentialsError(f"the manifest could not be made: {type(error).__name__}") from None
        if state not in ("Valid", "Trusted"):
            raise CredentialsError("the manifest that was made is not valid; the file is not signed")

    def _manifest(self, statement: Statement) -> dict[str, Any]:
        told = statement.model_dump(mode="json", exclude_none=True)
        edits: list[dict[str, Any]] = [
            {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE},
            {"action": "c2pa.edited", "description": "what identifies people was masked"},
            {"action": "c2pa.edited.metadata", "description": "metadata was removed, but for what the redaction lists"},
        ]
        actions = [{**edit, "softwareAgent": self._agent} for edit in edits]
        return {
            "claim_generator_info": [self._agent],
            "assertions": [
                {"label": ACTIONS, "data": {"actions": actions, "allActionsIncluded": True}},
                {"label": LABEL, "data": told},
            ],
        }


def _boxes(file: BinaryIO) -> list[bytes]:
    """The types of the boxes at the top of an MP4 or MOV; the file is at its beginning afterwards."""
    found, at = [], 0
    while len(header := file.read(16)) >= 8:
        size = int.from_bytes(header[:4], "big")
        found.append(header[4:8])
        size = int.from_bytes(header[8:], "big") if size == 1 else size
        if size < 8:  # to the end of the file, or damaged
            break
        at += size
        file.seek(at)
    file.seek(0)
    return found


def _configured(settings: Settings) -> tuple[bytes, bytes] | None:
    if settings.c2pa_certificate is None and settings.c2pa_key is None:
        return None
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        raise CredentialsError("SFUMATO_C2PA_CERTIFICATE and SFUMATO_C2PA_KEY go together; set both, or neither")
    try:
        return settings.c2pa_certificate.read_bytes(), settings.c2pa_key.read_bytes()
    except OSError as error:
        raise CredentialsError(f"SFUMATO_C2PA_CERTIFICATE or _KEY: {error.strerror}") from None


def _self_made(path: Path) -> tuple[bytes, bytes]:
    """The chain and key of a file that is made where there is none, or where its certificate ends soon."""
    chain, key = _read(path)
    if not chain or x509.load_pem_x509_certificate(chain).not_valid_after_utc - MARGIN < datetime.now(UTC):
        if chain:
            path.unlink(missing_ok=True)
        _make(path)
        chain, key = _read(path)
    return chain, key


def _read(path: Path) -> tuple[bytes, bytes]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return b"", b""
    key, mark, chain = text.partition(b"-----BEGIN CERTIFICATE-----")
    if not mark:
        raise CredentialsError(f"{path}: damaged; delete it, another will be made")
    return mark + chain, key


def _make(path: Path) -> None:
    """A key with a certificate by a root whose own key is forgotten at once. Of processes that make one together the
    first one's stays."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("sfumato self-made root, untrusted", None, root_key, root_key)
    leaf = _certificate("sfumato self-made, untrusted", root, key, root_key)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.write(leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink()


def _certificate(
    name: str, root: x509.Certificate | None, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """As C2PA 2.2, section 14.5.1 wants it; ``root`` None: the root itself."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "sfumato"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.now(UTC)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False, "digital_signature": root is not None}
    usage |= {"key_cert_sign": root is None, "crl_sign": root is None}
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if root is None else root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=root is None, path_length=0 if root is None else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if root is not None:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(by, hashes.SHA256())
