"""Apache Kafka with TLS, SASL and its authorizer: the certificates, the users and a provider of access tokens."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

import trustme
from apache_kafka import ApacheKafka
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt

from sfumato.agents.broker import HOST, free_port

ADMIN = "admin"
DECISION = re.compile(
    r"Principal = User:(\S+) is (Allowed|Denied) operation = (\w+) from .* on resource = (\w+):LITERAL:(\S+) "
)
REAUTH = 2000
"""Milliseconds after which a client that signed in by a token has to sign in again."""
KAFKA_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearer"


class Decision(NamedTuple):
    """What Kafka's authorizer said, in its own words: ``READ``, ``Topic``, …"""

    user: str
    allowed: bool
    operation: str
    kind: str
    name: str


class TokenEndpoint:
    """An OAuth 2.0 token endpoint for client credentials, as RFC 6749 has it, over HTTPS, and its keys over HTTP; a
    context manager."""

    def __init__(self, users: list[str], certificate: trustme.LeafCert) -> None:
        self._users = users
        self._key = jwk.generate_key("RSA", 2048)
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {"keys": [{**outer._key.as_dict(private=False), "kid": "one", "alg": "RS256"}]})

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                client, _, secret = base64.b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
                outer.asked.append(client)
                if form["grant_type"] != ["client_credentials"] or client not in outer._users:
                    self._answer(400, {"error": "invalid_request"})
                elif secret != password(client):
                    self._answer(401, {"error": "invalid_client"})
                else:
                    self._answer(200, {"access_token": outer.token(client), "token_type": "Bearer", "expires_in": 300})

            def _answer(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._servers = [ThreadingHTTPServer((HOST, 0), Handler) for _ in range(2)]
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        self._servers[0].socket = context.wrap_socket(self._servers[0].socket, server_side=True)
        self.url = f"https://{HOST}:{self._servers[0].server_port}/token"
        self.keys = f"http://{HOST}:{self._servers[1].server_port}/keys"

    def token(self, subject: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "kafka", "sub": subject, "iat": now, "exp": now + 300, "scope": "kafka"}
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, self._key)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class SecuredKafka(ApacheKafka):
    """Listeners: SASL_SSL (SCRAM, PLAIN, and OAUTHBEARER whose sessions end after :data:`REAUTH`) at ``port``, TLS with
    client certificates at ``mutual_port``, SCRAM without TLS at ``clear_port``. Nobody may do anything but the user
    ``admin``, and whom the ACLs let."""

    def __init__(self, folder: Path, users: list[str]) -> None:
        self.folder, self.mutual_port, self.clear_port = folder, free_port(), free_port()
        self._users = users
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.endpoint = TokenEndpoint(users, self._authority.issue_cert(HOST))
        scram = [
            f"--add-scram=SCRAM-SHA-{bits}=[name={user},password={password(user)}]"
            for user in [ADMIN, *users]
            for bits in (256, 512)
        ]
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.endpoint.keys}"
        audit = "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=debug"
        super().__init__(free_port(), format_options=scram, java_options=[allowed, audit, "-XX:TieredStopAtLevel=1"])
        self.credentials = {
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": ADMIN,
            "sasl.password": password(ADMIN),
        }

    def __enter__(self) -> Self:
        self.endpoint.__enter__()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        self.endpoint.__exit__()

    def decisions(self) -> list[Decision]:
        """Of the authorizer, since the start; without those that decide about a list of topics only."""
        assert self._log is not None
        found = DECISION.finditer(self._log.read_text(errors="replace"))
        return [Decision(m[1], m[2] == "Allowed", *m.groups()[2:]) for m in found]

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Chain and private key (PKCS #8, 0600) of ``CN=name``."""
        made = self._authority.issue_cert(HOST, common_name=name)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        private = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.touch(0o600)
        key.write_bytes(private.private_bytes(*form))
        return chain, key

    def encrypted_key(self, name: str, password: str) -> Path:
        """The private key of ``CN=name``, under a password."""
        _, plain = self.certificate(name)
        private = serialization.load_pem_private_key(plain.read_bytes(), None)
        path, lock = self.folder / f"{name}.locked.key", serialization.BestAvailableEncryption(password.encode())
        path.touch(0o600)
        path.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
        return path

    def given(self, user: str) -> dict[str, Any]:
        """The settings of a user who signs in by SCRAM."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "kafka_security_protocol": "sasl_ssl",
            "kafka_ca_file": self.ca,
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_username": user,
            "kafka_password_file": self.password_file(user),
        }

    def password_file(self, user: str) -> Path:
        file = self.folder / f"{user}.password"
        file.touch(0o600)
        file.write_text(password(user) + "\n")
        return file

    def _properties(self, controller_port: int) -> dict[str, object]:
        chain, key = self.certificate("broker")
        store = self.folder / "keystore.pem"
        store.write_bytes(key.read_bytes() + chain.read_bytes())
        listeners = f"SECURED://{HOST}:{self.port},MUTUAL://{HOST}:{self.mutual_port},CLEAR://{HOST}:{self.clear_port}"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        known = " ".join(f'user_{user}="{password(user)}"' for user in self._users)
        plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {known};"
        bearer = f'{KAFKA_OAUTH}LoginModule required unsecuredLoginStringClaim_sub="unused";'
        prefix = "listener.name.secured"
        return {
            **super()._properties(controller_port),
            "listeners": f"{listeners},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "SECURED:SASL_SSL,MUTUAL:SSL,CLEAR:SASL_PLAINTEXT,CONTROLLER:SSL",
            "inter.broker.listener.name": "MUTUAL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca,
            "ssl.client.auth": "required",
            f"{prefix}.ssl.client.auth": "none",
            f"{prefix}.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER,PLAIN",
            f"{prefix}.plain.sasl.jaas.config": plain,
            "listener.name.clear.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clear.scram-sha-512.sasl.jaas.config": scram,
            f"{prefix}.oauthbearer.connections.max.reauth.ms": REAUTH,
            f"{prefix}.scram-sha-256.sasl.jaas.config": scram,
            f"{prefix}.scram-sha-512.sasl.jaas.config": scram,
            f"{prefix}.oauthbearer.sasl.jaas.config": bearer,
            f"{prefix}.oauthbearer.sasl.server.callback.handler.class": f"{KAFKA_OAUTH}ValidatorCallbackHandler",
            f"{prefix}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self.endpoint.keys,
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.audience": "kafka",
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.issuer": self.endpoint.url,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/",
            "super.users": f"User:{ADMIN};User:broker",
        }


def password(user: str) -> str:
    return f"the-password-of-{user}"
