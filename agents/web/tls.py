"""The bridge's certificate: one's own, or a self-made one for trying."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sfumato.agents.settings import Settings, SettingsError

LIFETIME, LEFT = timedelta(days=397), timedelta(days=30)
"""How long a self-made certificate is valid (browsers take no longer ones), and how much of that must be left."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path


def certificate(settings: Settings) -> Certificate | None:
    """What to serve HTTPS with; None: plain HTTP. :class:`SettingsError` where a file is missing, and where plain HTTP
    would leave this machine."""
    if settings.tls_certificate and settings.tls_key:
        for name, path in (("TLS_CERTIFICATE", settings.tls_certificate), ("TLS_KEY", settings.tls_key)):
            if not path.is_file():
                raise SettingsError(f"SFUMATO_{name}: no such file")
        return Certificate(settings.tls_certificate, settings.tls_key)
    if settings.tls:
        return _self_made(settings)
    if not settings.behind_proxy and not _is_loopback(settings.bridge_host):
        raise SettingsError(
            f"SFUMATO_BRIDGE_HOST: {settings.bridge_host} is not loopback, and keys would cross the network in the "
            "clear: set SFUMATO_TLS_CERTIFICATE and SFUMATO_TLS_KEY, or for trying SFUMATO_TLS=self-made, or "
            "SFUMATO_BEHIND_PROXY=true where a reverse proxy with TLS alone reaches the bridge"
        )
    return None


def _self_made(settings: Settings) -> Certificate:
    """Made anew where the names in it have changed or its end is near."""
    folder = settings.state_dir / "tls"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    names = _names(settings)
    if not _serves(made, names):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(made.key, pem)
        _write(made.certificate, _sign(key, names).public_bytes(serialization.Encoding.PEM))
    return made


def _sign(key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName]) -> x509.Certificate:
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sfumato, self-made")]), datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _serves(made: Certificate, names: list[x509.GeneralName]) -> bool:
    try:
        found = x509.load_pem_x509_certificate(made.certificate.read_bytes())
        key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    except (OSError, ValueError):
        return False
    listed = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    fits = key.public_key() == found.public_key() and [*listed] == names
    return fits and found.not_valid_after_utc - datetime.now(UTC) > LEFT


def _names(settings: Settings) -> list[x509.GeneralName]:
    """The names that viewers may use, and the address that the bridge listens on."""
    given = dict.fromkeys([*settings.bridge_allowed_hosts, settings.bridge_host])
    found = [name.strip("[]") for name in given if name != "*"]
    return [x509.IPAddress(ip) if (ip := _ip(name)) else x509.DNSName(name) for name in dict.fromkeys(found)]


def _write(path: Path, pem: bytes) -> None:
    """For this user's eyes, and whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    beside.replace(path)


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def _ip(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name.strip("[]"))
    except ValueError:
        return None
