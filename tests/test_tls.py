"""HTTPS as users run it, and the refusal to send keys in the clear."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509

from sfumato.agents.settings import Settings, SettingsError
from sfumato.agents.web import tls
from tests.calling import bearer

COMMAND = [sys.executable, "-m", "sfumato.agents.cli", "bridge"]


def environment(folder: Path, **settings: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SFUMATO_")}
    settings = {"state_dir": str(folder), "bridge_port": "0", "bootstrap_servers": "127.0.0.1:1", **settings}
    return {**own, **{f"SFUMATO_{name.upper()}": value for name, value in settings.items()}}


def talk(folder: Path, verify: ssl.SSLContext, **settings: str) -> None:
    """Start it for the first time, and use the key that it prints."""
    with subprocess.Popen(
        COMMAND, env=environment(folder, **settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            (key,) = re.findall(r"sfumato_\S+", process.stdout.readline())
            (url,) = next(found for line in process.stderr if (found := re.findall(r"viewer: (https://\S+/)", line)))
            with httpx.Client(verify=verify, base_url=url, timeout=30) as client:
                assert client.get("/v1/cameras").status_code == 401
                answer = client.get("/v1/session", headers=bearer(key))
                assert answer.status_code == 200
                assert "max-age" in answer.headers["strict-transport-security"]
                signed_in = client.post("/v1/session", json={"key": key})
                assert signed_in.headers["set-cookie"].startswith("__Host-sfumato=")
                assert "Secure" in signed_in.headers["set-cookie"]
            with pytest.raises(httpx.HTTPError):
                httpx.get(url.replace("https", "http"), timeout=30)
        finally:
            process.terminate()
            said = process.stderr.read()
    assert key not in said
    assert process.returncode == 0, said


def test_a_certificate_of_ones_own(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(tmp_path / "certificate.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    talk(
        tmp_path / "state",
        trusting,
        tls_certificate=str(tmp_path / "certificate.pem"),
        tls_key=str(tmp_path / "key.pem"),
    )


def test_a_self_made_certificate(tmp_path):
    settings = Settings(state_dir=tmp_path, tls="self-made")
    made = tls.certificate(settings)
    assert made is not None
    trusting = ssl.create_default_context(cafile=str(made.certificate))
    talk(tmp_path, trusting, tls="self-made")
    assert made.key.stat().st_mode & 0o077 == 0


def test_a_self_made_certificate_is_kept_until_its_names_change_or_its_end_is_near(tmp_path, monkeypatch):
    def made(**changes: object) -> bytes:
        found = tls.certificate(Settings(state_dir=tmp_path, tls="self-made", **changes))  # type: ignore[arg-type]
        assert found is not None
        return found.certificate.read_bytes()

    first = made()
    assert made() == first
    named = made(bridge_allowed_hosts=["bridge.example", "10.0.0.7", "*"], bridge_host="0.0.0.0")
    listed = x509.load_pem_x509_certificate(named).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert listed.value.get_values_for_type(x509.DNSName) == ["bridge.example"]
    assert [str(ip) for ip in listed.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "0.0.0.0"]
    monkeypatch.setattr(tls, "LEFT", timedelta(days=400))
    renewed = made()
    assert renewed not in (first, named)
    assert x509.load_pem_x509_certificate(renewed).not_valid_after_utc > datetime.now(UTC) + timedelta(days=390)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "bridge.example", ""])
def test_keys_do_not_cross_the_network_in_the_clear(host, tmp_path):
    with pytest.raises(SettingsError, match="SFUMATO_TLS"):
        tls.certificate(Settings(bridge_host=host, state_dir=tmp_path))
    assert tls.certificate(Settings(bridge_host=host, state_dir=tmp_path, behind_proxy=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_plain_http_stays_on_this_machine(host, tmp_path):
    assert tls.certificate(Settings(bridge_host=host, state_dir=tmp_path)) is None


def test_the_command_says_what_to_do_instead_of_listening(tmp_path):
    ended = subprocess.run(
        COMMAND, env=environment(tmp_path, bridge_host="0.0.0.0"), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "SFUMATO_TLS=self-made" in ended.stderr
    assert "SFUMATO_BEHIND_PROXY=true" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tls_certificate": "x"}, "tls_key"),
        ({"tls_certificate": "x", "tls_key": "y", "tls": "self-made"}, "tls"),
        ({"oidc_issuer": "https://id.example"}, "oidc_audience"),
        ({"oidc_jwks_url": "https://id.example/keys"}, "oidc_issuer"),
        ({"oidc_issuer": "http://id.example", "oidc_audience": "x"}, "oidc_issuer"),
        ({"oidc_issuer": "http://127.0.0.1.evil.example", "oidc_audience": "x"}, "oidc_issuer"),
        ({"rate_limit_url": "http://redis.example"}, "rate_limit_url"),
    ],
)
def test_settings_that_do_not_go_together(settings, named):
    with pytest.raises(ValueError, match=named):
        Settings(**settings)


def test_a_certificate_that_is_missing_is_named(tmp_path):
    with pytest.raises(SettingsError, match="TLS_CERTIFICATE"):
        tls.certificate(Settings(tls_certificate=tmp_path / "x", tls_key=tmp_path / "y"))
