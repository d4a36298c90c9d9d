"""Apache Kafka with TLS, SASL and its authorizer: the certificates, the users and a provider of access tokens."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import trustme
from apache_kafka import ApacheKafka
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt

from sfumato.agents.broker import HOST, free_port
from sfumato.agents.settings import Settings

ADMIN = "admin"
KAFKA_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearer"


class TokenEndpoint:
    """An OAuth 2.0 token endpoint for client credentials, as RFC 6749 has it, and its keys; a context manager."""

    def __init__(self, users: list[str]) -> None:
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def token(self, subject: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "kafka", "sub": subject, "iat": now, "exp": now + 300, "scope": "kafka"}
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, self._key)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class SecuredKafka(ApacheKafka):
    """Listeners: SASL_SSL (SCRAM and OAUTHBEARER) at ``port``, TLS with client certificates at ``mutual_port``. Nobody
    may do anything but the user ``admin``, and whom the ACLs let."""

    def __init__(self, folder: Path, users: list[str]) -> None:
        self.folder, self.mutual_port = folder, free_port()
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.endpoint = TokenEndpoint(users)
        scram = [
            f"--add-scram=SCRAM-SHA-{bits}=[name={user},password={password(user)}]"
            for user in [ADMIN, *users]
            for bits in (256, 512)
        ]
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.endpoint.url}/keys"
        super().__init__(free_port(), format_options=scram, java_options=[allowed])
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

    def as_user(self, user: str, **changes: Any) -> Settings:
        """The settings of a user who signs in by SCRAM."""
        given: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "kafka_security_protocol": "sasl_ssl",
            "kafka_ca_file": self.ca,
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_username": user,
            "kafka_password_file": self.password_file(user),
            "partitions": 2,
            "state_dir": self.folder / "state",
        }
        return Settings(**given | changes)

    def password_file(self, user: str) -> Path:
        file = self.folder / f"{user}.password"
        file.touch(0o600)
        file.write_text(password(user) + "\n")
        return file

    def _properties(self, controller_port: int) -> dict[str, object]:
        chain, key = self.certificate("broker")
        store = self.folder / "keystore.pem"
        store.write_bytes(key.read_bytes() + chain.read_bytes())
        listeners = f"SECURED://{HOST}:{self.port},MUTUAL://{HOST}:{self.mutual_port}"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        bearer = f'{KAFKA_OAUTH}LoginModule required unsecuredLoginStringClaim_sub="unused";'
        prefix = "listener.name.secured"
        return {
            **super()._properties(controller_port),
            "listeners": f"{listeners},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "SECURED:SASL_SSL,MUTUAL:SSL,CONTROLLER:SSL",
            "inter.broker.listener.name": "MUTUAL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca,
            "ssl.client.auth": "required",
            f"{prefix}.ssl.client.auth": "none",
            f"{prefix}.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{prefix}.scram-sha-256.sasl.jaas.config": scram,
            f"{prefix}.scram-sha-512.sasl.jaas.config": scram,
            f"{prefix}.oauthbearer.sasl.jaas.config": bearer,
            f"{prefix}.oauthbearer.sasl.server.callback.handler.class": f"{KAFKA_OAUTH}ValidatorCallbackHandler",
            f"{prefix}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": f"{self.endpoint.url}/keys",
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.audience": "kafka",
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.issuer": self.endpoint.url,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/",
            "super.users": f"User:{ADMIN};User:broker",
        }


def password(user: str) -> str:
    return f"the-password-of-{user}"
