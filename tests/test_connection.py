"""The settings of TLS and SASL: what contradicts, what is missing, and that secrets stay where they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from sfumato.agents.connection import client_config, faust_credentials
from sfumato.agents.settings import Settings, SettingsError, load

SCRAM = {"kafka_security_protocol": "sasl_ssl", "kafka_sasl_mechanism": "SCRAM-SHA-512", "kafka_username": "ingest"}
SECRET = "tell-nobody"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka_ca_file": "ca.pem"}, "kafka_ca_file: want kafka_security_protocol ssl or sasl_ssl"),
        ({"kafka_username": "a", "kafka_password": SECRET}, "kafka_username, kafka_password: want kafka_security_prot"),
        ({"kafka_security_protocol": "ssl", "kafka_key_file": "k"}, "kafka_certificate_file, kafka_key_file: set both"),
        ({"kafka_security_protocol": "ssl", "kafka_key_password": SECRET}, "kafka_key_file: missing"),
        ({"kafka_security_protocol": "sasl_ssl"}, "kafka_sasl_mechanism, kafka_username: missing"),
        (SCRAM, "kafka_password, kafka_password_file: set one"),
        (SCRAM | {"kafka_password": SECRET, "kafka_password_file": "p"}, "kafka_password_file: set one"),
        (SCRAM | {"kafka_password": SECRET, "kafka_token_url": "https://i"}, "kafka_token_url: want kafka_sasl_mechan"),
        (SCRAM | {"kafka_password": SECRET, "kafka_sasl_mechanism": "OAUTHBEARER"}, "kafka_token_url: missing"),
        (
            {
                **SCRAM,
                "kafka_password": SECRET,
                "kafka_sasl_mechanism": "PLAIN",
                "kafka_security_protocol": "sasl_plaintext",
            },
            "kafka_security_protocol: PLAIN shows its secret",
        ),
        (SCRAM | {"kafka_password": SECRET, "kafka_sasl_mechanism": "SCRAM"}, "kafka_sasl_mechanism"),
        (SCRAM | {"kafka_password": SECRET, "kafka_token_url": "http://idp.example/"}, "kafka_token_url"),
    ],
)
def test_what_contradicts_or_is_missing_is_named(given, said, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(f"SFUMATO_{name.upper()}", value)
    with pytest.raises(SettingsError, match=re.escape(said)) as error:
        load()
    assert SECRET not in str(error.value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert SECRET not in str(raised.value)


def test_without_settings_it_is_plaintext_as_ever():
    assert client_config(Settings()) == {"bootstrap.servers": "127.0.0.1:9092"}
    assert faust_credentials(Settings()) is None


def test_secrets_reach_the_clients_and_no_text():
    settings = Settings(**SCRAM, kafka_password=SECRET)
    assert client_config(settings)["sasl.password"] == SECRET
    assert client_config(settings)["ssl.endpoint.identification.algorithm"] == "https"
    credentials = faust_credentials(settings)
    assert credentials is not None
    assert credentials.password == SECRET
    assert credentials.ssl_context.check_hostname
    assert SECRET not in f"{settings!r} {settings} {credentials!r} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (SECRET, 0o640, "SFUMATO_KAFKA_PASSWORD_FILE: others may read .*; chmod 600 it"),
        ("\n", 0o600, "SFUMATO_KAFKA_PASSWORD_FILE: .* is empty"),
        (None, 0, "SFUMATO_KAFKA_PASSWORD_FILE: .*: No such file"),
    ],
)
def test_a_password_file_is_for_one(tmp_path, content, mode, said):
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(SettingsError, match=said):
        client_config(Settings(**SCRAM, kafka_password_file=path))


def test_files_that_are_no_certificates_are_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("no certificate")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="SFUMATO_KAFKA_CA_FILE"):
        client_config(Settings(kafka_security_protocol="ssl", kafka_ca_file=path))
    files: dict[str, Path] = {"kafka_certificate_file": path, "kafka_key_file": path}
    with pytest.raises(SettingsError, match="SFUMATO_KAFKA_CERTIFICATE_FILE, _KEY_FILE, _KEY_PASSWORD"):
        client_config(Settings(kafka_security_protocol="ssl", **files))
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="SFUMATO_KAFKA_KEY_FILE: others may read"):
        client_config(Settings(kafka_security_protocol="ssl", **files))


def test_every_client_is_made_by_one_function():
    """A client that is configured elsewhere would be one without TLS; brokers' own probes apart."""
    root = Path(__file__).parent.parent / "agents"
    found = {path.name for path in root.rglob("*.py") if "bootstrap.servers" in path.read_text()}
    assert found == {"connection.py", "broker.py"}
