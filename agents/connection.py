"""How every Kafka client of sfumato connects: its addresses, TLS and SASL, from the settings ``SFUMATO_KAFKA_…``.

Two libraries speak to Kafka, librdkafka (``confluent_kafka``) and aiokafka (under Faust); both get theirs here. Host
names are always verified. Secrets stand in files that nobody else may read, or in the environment, and in no text.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sfumato.agents.settings import PREFIX, Settings, SettingsError

if TYPE_CHECKING:
    from faust.auth import Credentials


def client_config(settings: Settings) -> dict[str, Any]:
    """What a client of librdkafka needs to connect, by librdkafka's names. :class:`SettingsError` names a file that
    cannot be read, or that others may read."""
    config: dict[str, Any] = {"bootstrap.servers": settings.bootstrap_servers}
    protocol = settings.kafka_security_protocol
    if protocol == "plaintext":
        return config
    config["security.protocol"] = protocol
    if "ssl" in protocol:
        config |= _librdkafka_tls(settings)
    if "sasl" in protocol:
        config |= _librdkafka_sasl(settings)
    return config


def consumer_config(settings: Settings, group: str) -> dict[str, Any]:
    """The same for a consumer that commits nothing by itself; ``group`` is required by the client. Raises as
    :func:`client_config`."""
    return client_config(settings) | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 50,
        "fetch.queue.backoff.ms": 10,  # once its queue was full; the default, 1 s, is longer than the queue lasts
    }


def faust_credentials(settings: Settings) -> Credentials | None:
    """The same for Faust; None: plaintext. Raises as :func:`client_config`."""
    from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials  # others do without Faust

    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    if protocol == "plaintext":
        return None
    context = tls_context(settings) if "ssl" in protocol else None
    if "sasl" not in protocol:
        return SSLCredentials(context)
    if mechanism == "OAUTHBEARER":
        from sfumato.agents.token_provider import TokenProvider

        return OAuthCredentials(oauth_cb=TokenProvider(settings), ssl_context=context)
    return SASLCredentials(
        username=settings.kafka_username, password=secret(settings), mechanism=mechanism, ssl_context=context
    )


def secret(settings: Settings) -> str:
    """The password, or client secret: of the environment or the file."""
    if settings.kafka_password is not None:
        return settings.kafka_password.get_secret_value()
    found = readable(settings, "kafka_password_file", private=True).read_text().rstrip("\r\n")
    if not found:
        raise SettingsError(f"SFUMATO_KAFKA_PASSWORD_FILE: {settings.kafka_password_file} is empty")
    return found


def tls_context(settings: Settings) -> ssl.SSLContext:
    """For aiokafka: verifies chain and host name, and shows the client's certificate where there is one."""
    try:
        ca = readable(settings, "kafka_ca_file") if settings.kafka_ca_file else None
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise SettingsError(f"SFUMATO_KAFKA_CA_FILE: {settings.kafka_ca_file} holds no certificates as PEM") from None
    if settings.kafka_certificate_file:
        chain, key = readable(settings, "kafka_certificate_file"), readable(settings, "kafka_key_file", private=True)
        password = settings.kafka_key_password
        try:
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(chain, key, password.get_secret_value() if password else lambda: b"")
        except ssl.SSLError as error:
            names = "SFUMATO_KAFKA_CERTIFICATE_FILE, _KEY_FILE, _KEY_PASSWORD"
            raise SettingsError(f"{names}: do not go together: {error.reason or 'not PEM'}") from None
    return context


def _librdkafka_tls(settings: Settings) -> dict[str, Any]:
    tls_context(settings)  # names the setting at fault, which librdkafka does not
    config: dict[str, Any] = {"ssl.endpoint.identification.algorithm": "https"}
    if settings.kafka_ca_file:
        config["ssl.ca.location"] = str(settings.kafka_ca_file)
    if settings.kafka_certificate_file:
        config["ssl.certificate.location"] = str(settings.kafka_certificate_file)
        config["ssl.key.location"] = str(settings.kafka_key_file)
    if settings.kafka_key_password:
        config["ssl.key.password"] = settings.kafka_key_password.get_secret_value()
    return config


def _librdkafka_sasl(settings: Settings) -> dict[str, Any]:
    mechanism = settings.kafka_sasl_mechanism
    config: dict[str, Any] = {"sasl.mechanism": mechanism}
    if mechanism != "OAUTHBEARER":
        return {**config, "sasl.username": settings.kafka_username, "sasl.password": secret(settings)}
    config |= {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": settings.kafka_username,
        "sasl.oauthbearer.client.secret": secret(settings),
        "sasl.oauthbearer.token.endpoint.url": settings.kafka_token_url,
    }
    if settings.kafka_token_scope:
        config["sasl.oauthbearer.scope"] = settings.kafka_token_scope
    if settings.kafka_token_ca_file:
        config["https.ca.location"] = str(readable(settings, "kafka_token_ca_file"))
    return config


def readable(settings: Settings, name: str, *, private: bool = False) -> Path:
    """The file of a setting; :class:`SettingsError` where it cannot be read, or others may read what is private."""
    path: Path = getattr(settings, name)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise SettingsError(f"{PREFIX}{name.upper()}: {path}: {error.strerror}") from None
    if private and mode & 0o077:
        raise SettingsError(f"{PREFIX}{name.upper()}: others may read {path}; chmod 600 it")
    return path


def diagnose(settings: Settings, timeout: float = 5.0) -> str | None:
    """Connect once: the setting at fault, in one line; None where it is none of these here, or nobody listens."""
    errors: list[KafkaError] = []
    config = {**client_config(settings), "error_cb": errors.append, "log_level": 0}
    admin = AdminClient(config)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            admin.list_topics(timeout=0.2)
            return None
        except KafkaException as error:
            errors.append(error.args[0])
        admin.poll(0)
        if found := next(filter(None, (explain(settings, error) for error in errors)), None):
            return found
        if any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in errors):
            break
    if not _listens(settings):
        return None
    protocol = settings.kafka_security_protocol
    return (
        f"Kafka at {settings.bootstrap_servers} takes connections, but does not answer in {protocol}; it may want "
        "another SFUMATO_KAFKA_SECURITY_PROTOCOL"
    )


def explain(settings: Settings, error: KafkaError) -> str | None:
    """A client's error as the setting at fault; None: it is about something else."""
    code, text, at = error.code(), error.str(), f"Kafka at {settings.bootstrap_servers}"
    if code == KafkaError._AUTHENTICATION and settings.kafka_sasl_mechanism == "OAUTHBEARER":
        names = "SFUMATO_KAFKA_TOKEN_URL, _USERNAME, _PASSWORD"
        return f"no access token, or one that {at} refuses: {names}"
    if code == KafkaError._AUTHENTICATION:
        names = "SFUMATO_KAFKA_USERNAME, _PASSWORD, _SASL_MECHANISM"
        return f"{at} refuses user {settings.kafka_username!r} with this password: {names}"
    if "SSL alert" in text:
        return f"{at} refuses this client's certificate, or that it has none: SFUMATO_KAFKA_CERTIFICATE_FILE"
    if code == KafkaError._SSL and "verif" in text:
        return (
            f"{at} shows a certificate of an authority that is not trusted, or of another host: "
            "SFUMATO_KAFKA_CA_FILE, SFUMATO_BOOTSTRAP_SERVERS"
        )
    if code == KafkaError._SSL:
        return f"{at} does not speak TLS there: SFUMATO_KAFKA_SECURITY_PROTOCOL, SFUMATO_BOOTSTRAP_SERVERS"
    return None


def _listens(settings: Settings) -> bool:
    for server in settings.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        with suppress(OSError, ValueError), socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    return False
