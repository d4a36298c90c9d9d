"""Keycloak, a real identity provider, on loopback: its distribution comes from Maven Central into the cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from sfumato.agents.broker import free_port

VERSION = "26.0.7"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
AUDIENCE = "sfumato"
TIMEOUT = 180.0


class Keycloak:
    """A context manager: realm ``city`` with one client for each of ``clients``: its id, client roles of sfumato and
    the claim ``cameras``."""

    def __init__(self, folder: Path, clients: dict[str, tuple[list[str], list[str]]]) -> None:
        self._folder = folder
        self._clients = clients
        self._port = free_port()
        self._log = folder / "keycloak.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.issuer = f"http://127.0.0.1:{self._port}/realms/city"

    def __enter__(self) -> Self:
        home = self._folder / "keycloak"
        shutil.copytree(distribution(), home, symlinks=True)
        (home / "data" / "import").mkdir(parents=True)
        (home / "data" / "import" / "city.json").write_text(json.dumps(_realm(self._clients)))
        options = ["--http-enabled=true", "--hostname-strict=false", "--cache=local", "--import-realm"]
        options += ["--http-host=127.0.0.1", f"--http-port={self._port}"]
        environment = {**os.environ, "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m", "KC_LOG_LEVEL": "warn"}
        environment |= {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [home / "bin" / "kc.sh", "start", "--optimized", *options],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def token(self, client: str) -> str:
        """An access token by client credentials."""
        answer = httpx.post(
            f"{self.issuer}/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": client, "client_secret": f"{client}-secret"},
            timeout=30,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def rotate(self) -> None:
        """The realm signs with a new key from now on."""
        base = self.issuer.removesuffix("/realms/city")
        login = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
        answer = httpx.post(f"{base}/realms/master/protocol/openid-connect/token", data=login, timeout=30)
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        realm = httpx.get(f"{base}/admin/realms/city", headers=headers, timeout=30).json()
        config = {"priority": ["1000"], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"]}
        provider = {"name": "newer", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        httpx.post(
            f"{base}/admin/realms/city/components",
            headers=headers,
            json={**provider, "parentId": realm["id"], "config": config},
            timeout=30,
        ).raise_for_status()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()
            try:
                if httpx.get(f"{self.issuer}/.well-known/openid-configuration", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError(self._log.read_text())

    def _stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def distribution() -> Path:
    """The unpacked distribution in the cache; fetched by Maven where it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato"
    folder = cache / f"keycloak-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
        goals = [f"{plugin}:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false"]
        subprocess.run(["mvn", "--batch-mode", "--quiet", "--strict-checksums", *goals], check=True)
        goals = [f"{plugin}:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={scratch}"]
        subprocess.run(["mvn", "--batch-mode", "--quiet", *goals], check=True)
        (archive,) = Path(scratch).glob("*.zip")
        with zipfile.ZipFile(archive) as file:
            file.extractall(scratch)
        unpacked = Path(scratch) / f"keycloak-{VERSION}"
        (unpacked / "bin" / "kc.sh").chmod(0o755)
        # Built once, so that each start is quick.
        subprocess.run([unpacked / "bin" / "kc.sh", "build", "--db=dev-mem"], check=True, stdout=subprocess.DEVNULL)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # else: another process was faster
                raise
    return folder


def _realm(clients: dict[str, tuple[list[str], list[str]]]) -> dict[str, Any]:
    roles = sorted({role for granted, _ in clients.values() for role in granted})
    return {
        "realm": "city",
        "enabled": True,
        "sslRequired": "none",
        "accessTokenLifespan": 300,
        "roles": {"client": {AUDIENCE: [{"name": role} for role in roles]}},
        "clients": [{"clientId": AUDIENCE, "bearerOnly": True, "enabled": True}, *map(_client, clients.items())],
        "users": [
            {
                "username": f"service-account-{client}",
                "enabled": True,
                "serviceAccountClientId": client,
                "clientRoles": {AUDIENCE: granted},
            }
            for client, (granted, _) in clients.items()
        ],
    }


def _client(each: tuple[str, tuple[list[str], list[str]]]) -> dict[str, Any]:
    client, (_, cameras) = each

    def mapper(kind: str, **config: str) -> dict[str, Any]:
        whole = {"access.token.claim": "true", "introspection.token.claim": "true", **config}
        return {"name": kind, "protocol": "openid-connect", "protocolMapper": kind, "config": whole}

    claim = {"claim.name": "cameras", "claim.value": json.dumps(cameras), "jsonType.label": "JSON"}
    return {
        "clientId": client,
        "enabled": True,
        "secret": f"{client}-secret",
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "fullScopeAllowed": True,
        "protocolMappers": [
            mapper("oidc-audience-mapper", **{"included.client.audience": AUDIENCE}),
            mapper("oidc-hardcoded-claim-mapper", **claim),
            mapper(
                "oidc-usermodel-client-role-mapper",
                **{
                    "claim.name": "resource_access.${client_id}.roles",
                    "multivalued": "true",
                    "jsonType.label": "String",
                },
            ),
        ],
    }
