"""Client credentials of a real identity provider: Keycloak, from Maven Central."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from sfumato.schemas.scope import ROLES, Role
from tests.calling import app as application
from tests.calling import bearer, client
from tests.keycloak import AUDIENCE, Keycloak
from tests.test_bridge import frame


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory) -> Iterator[Keycloak]:
    clients = {"acme": (["vendor"], ["north-*"]), "stranger": ([], [])}
    with Keycloak(tmp_path_factory.mktemp("keycloak"), clients) as started:
        yield started


@pytest.fixture(scope="module")
def app(keycloak, tmp_path_factory) -> Iterator[FastAPI]:
    settings = {"oidc_issuer": keycloak.issuer, "oidc_audience": AUDIENCE}
    with application(tmp_path_factory.mktemp("state"), **settings) as made:
        yield made


def test_a_vendors_client_sees_its_cameras_alone_and_a_stranger_none(app, keycloak):
    for camera in ("north-1", "south"):
        app.state.live.put(frame(camera, 0))
    vendor = client(app)
    vendor.headers.update(bearer(keycloak.token("acme")))
    said = vendor.get("/v1/session").json()
    assert {*said["scopes"]} == ROLES[Role.VENDOR]
    assert said["caller"].endswith(f"@{keycloak.issuer}")
    assert [camera["id"] for camera in vendor.get("/v1/cameras").json()["items"]] == ["north-1"]
    assert vendor.get("/v1/cameras/north-1/snapshot.jpg").status_code == 200
    assert vendor.get("/v1/cameras/south/snapshot.jpg").status_code == 404
    assert vendor.get("/v1/keys").status_code == 403
    assert client(app).get("/v1/cameras", headers=bearer(keycloak.token("stranger"))).status_code == 403


def test_keycloaks_keys_rotate(app, keycloak, monkeypatch):
    monkeypatch.setattr("sfumato.agents.access.tokens.PAUSE", 0.0)
    old = keycloak.token("acme")
    assert client(app).get("/v1/cameras", headers=bearer(old)).status_code == 200
    keycloak.rotate()
    new = keycloak.token("acme")
    assert new.split(".")[0] != old.split(".")[0]  # another kid
    assert client(app).get("/v1/cameras", headers=bearer(new)).status_code == 200
    assert client(app).get("/v1/cameras", headers=bearer(old)).status_code == 200


def test_a_token_for_another_audience_is_refused(app, keycloak):
    """Keycloak's own administrator has one."""
    import httpx

    base = keycloak.issuer.removesuffix("/realms/city")
    login = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
    token = httpx.post(f"{base}/realms/master/protocol/openid-connect/token", data=login, timeout=30).json()
    assert client(app).get("/v1/cameras", headers=bearer(token["access_token"])).status_code == 401
