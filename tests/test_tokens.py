"""Access tokens: each claim checked, and each known trick refused, against a provider's keys over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from joserfc import jwk, jws, jwt

from sfumato.agents.access.callers import of_claims
from sfumato.agents.access.tokens import TokenError, Tokens
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import ROLES, Role, Scope
from tests.calling import app as application
from tests.calling import bearer, client

KINDS = {"RS256": ("RSA", 2048), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519"), "Ed25519": ("OKP", "Ed25519")}


class Issuer:
    """An identity provider's public half: discovery and keys, counted."""

    def __init__(self) -> None:
        self.keys: dict[str, jwk.Key] = {}
        self.more: list[dict[str, Any]] = []
        self.fetched = 0
        self.broken = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer.document(self.path)).encode()
                self.send_response(500 if outer.broken else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.named = self.url
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.add("one", "RS256")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def document(self, path: str) -> dict[str, Any]:
        if path.endswith("/.well-known/openid-configuration"):
            return {"issuer": self.named, "jwks_uri": f"{self.url}/keys"}
        self.fetched += 1
        public = [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]
        return {"keys": public + self.more}

    def add(self, kid: str, algorithm: str) -> None:
        self.keys[kid] = jwk.generate_key(*KINDS[algorithm])  # type: ignore[arg-type]

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "sfumato", "sub": "acme", "iat": now, "exp": now + 300, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, algorithm: str = "RS256", kid: str = "one", header: dict[str, Any] | None = None, **c: Any) -> str:
        head = {"alg": algorithm, "kid": kid, **(header or {})}
        registry = jws.JWSRegistry(algorithms=[*KINDS], strict_check_header=False)
        payload = json.dumps(self.claims(**c)).encode()
        return jws.serialize_compact(head, payload, self.keys[kid], [algorithm], registry)

    @property
    def settings(self) -> Settings:
        return Settings(oidc_issuer=self.url, oidc_audience="sfumato")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


def verify(issuer: Issuer, *tokens: str, settings: Settings | None = None) -> list[dict[str, Any] | str]:
    """The claims of each, or why it opens nothing."""

    async def run() -> list[dict[str, Any] | str]:
        verifier, results = Tokens(settings or issuer.settings), []
        for token in tokens:
            try:
                results.append(dict(await verifier.verify(token)))
            except TokenError as error:
                results.append(str(error))
        return results

    return asyncio.run(run())


def refused(issuer: Issuer, token: str) -> str:
    good, why = verify(issuer, issuer.token(), token)
    assert isinstance(good, dict)
    assert isinstance(why, str), why
    assert len(token) < 20 or token[:20] not in why
    return why


def raw(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes] = lambda _: b"") -> str:
    """A token made by hand."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{signed}.{encode(sign(signed.encode()))}"


@pytest.mark.parametrize("algorithm", [*KINDS])
def test_each_algorithm_by_its_own_kind_of_key(issuer, algorithm):
    issuer.add("two", algorithm)
    (claims,) = verify(issuer, issuer.token(algorithm, "two"))
    assert claims["sub"] == "acme"


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
def test_types_of_access_tokens(issuer, kind):
    assert isinstance(verify(issuer, issuer.token(header={"typ": kind}))[0], dict)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"iss": "http://evil.example"}, "iss"),
        ({"iss": None}, "iss"),
        ({"iss": ["x"]}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": ["another", "third"]}, "aud"),
        ({"aud": None}, "aud"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "never"}, "exp"),
        ({"exp": float("inf")}, ""),
        ({"exp": 2**40}, "hours after iat"),
        ({"nbf": 2**31}, "nbf"),
        ({"iat": 2**31, "exp": 2**31 + 60}, "iat"),
        ({"iat": None}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "x" * 300}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "\ud800"}, "sub"),
    ],
)
def test_claims_that_do_not_hold(issuer, changes, named):
    assert named in refused(issuer, issuer.token(**changes))


def test_claims_that_hold(issuer):
    now = int(time.time())
    for changes in ({"aud": ["other", "sfumato"]}, {"nbf": now + 5}, {"sub": None, "azp": "client"}):
        assert isinstance(verify(issuer, issuer.token(**changes))[0], dict), changes


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", ""])
def test_no_signature_is_none(issuer, algorithm):
    assert "alg" in refused(issuer, raw({"alg": algorithm, "kid": "one"}, issuer.claims()))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("form", ["pem", "der", "json"])
def test_a_public_key_is_no_hmac_secret(issuer, algorithm, form):
    key = issuer.keys["one"]
    secret = {
        "pem": key.as_pem(private=False),
        "der": key.as_der(private=False),
        "json": json.dumps(key.as_dict(private=False)).encode(),
    }[form]
    digest = getattr(hashlib, f"sha{algorithm[2:]}")
    forged = raw({"alg": algorithm, "kid": "one"}, issuer.claims(), lambda data: hmac.digest(secret, data, digest))
    assert "alg" in refused(issuer, forged)


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "ES384", "ES512", "ES256K"])
def test_other_algorithms_are_refused(issuer, algorithm):
    assert "alg" in refused(issuer, raw({"alg": algorithm, "kid": "one"}, issuer.claims(), lambda _: bytes(256)))


def test_an_algorithm_goes_with_its_own_kind_of_key_alone(issuer):
    issuer.add("ec", "ES256")
    wrong = raw({"alg": "ES256", "kid": "one"}, issuer.claims(), lambda _: bytes(64))
    assert "kid" in refused(issuer, wrong)
    issuer.more = [{**issuer.keys["ec"].as_dict(private=False), "kid": "bound", "alg": "ES384"}]
    issuer.keys["bound"] = issuer.keys["ec"]
    token = issuer.token("ES256", "bound")
    del issuer.keys["bound"]
    assert "kid" in refused(issuer, token)


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "http://evil.example/keys"},
        {"x5u": "http://evil.example/chain.pem"},
        {"x5c": ["MIIB"]},
        {"x5t": "abc"},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
)
def test_a_token_brings_neither_keys_nor_extensions(issuer, header):
    assert "header" in refused(issuer, raw({"alg": "RS256", "kid": "one", **header}, issuer.claims(), lambda _: b"x"))


def test_a_key_in_the_token_itself_is_not_believed(issuer):
    mine = jwk.generate_key("EC", "P-256")
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    header = {"alg": "ES256", "kid": "one", "jwk": mine.as_dict(private=False)}
    assert "header" in refused(issuer, jwt.encode(header, issuer.claims(), mine, registry=registry))


@pytest.mark.parametrize("kid", [None, "", "../../dev/null", "' OR 1=1 --", "two\u0000", 1, ["one"], {"a": 1}, "ONE"])
def test_kid_names_one_of_the_providers_keys_and_nothing_else(issuer, kid):
    header = {"alg": "RS256"} | ({} if kid is None else {"kid": kid})
    assert "kid" in refused(issuer, raw(header, issuer.claims(), lambda _: bytes(256)))


@pytest.mark.parametrize("kind", ["id+jwt", "logout+jwt", "dpop+jwt", "JWE", 1])
def test_other_kinds_of_tokens_are_no_access_tokens(issuer, kind):
    assert "typ" in refused(issuer, raw({"alg": "RS256", "kid": "one", "typ": kind}, issuer.claims(), lambda _: b"x"))


def test_what_is_no_token_is_refused(issuer):
    header, payload, signature = issuer.token().split(".")
    other = issuer.token(sub="root").split(".")[1]
    forged = [f"{header}.{other}.{signature}", f"{header}.{payload}.", f"{header}.{payload}.{signature[:-8]}AAAAAAAA"]
    for text in (*forged, "a.b.c", "..", "x", "a.b.c.d.e", "\u00e9.\u00e9.\u00e9", "A" * 200_000):
        assert refused(issuer, text)
    deep = raw({"alg": "RS256", "kid": "one"}, issuer.claims(), lambda _: b"x").split(".")
    nested = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    assert refused(issuer, f"{nested}.{deep[1]}.{deep[2]}")


def test_keys_that_are_too_small_private_or_of_another_use_are_left_out(issuer):
    issuer.keys |= {"small": jwk.RSAKey.generate_key(1024), "enc": jwk.generate_key("RSA", 2048)}
    small, enc = issuer.token(kid="small"), issuer.token(kid="enc")
    del issuer.keys["enc"]
    issuer.more = [{"kty": "oct", "kid": "hmac", "k": "c2VjcmV0"}, {"kty": "AKP", "kid": "pq"}, {"kid": "x"}]
    issuer.more += [{"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}]
    forged = raw({"alg": "HS256", "kid": "hmac"}, issuer.claims(), lambda d: hmac.digest(b"secret", d, "sha256"))
    for token in (small, enc, forged):
        refused(issuer, token)


def test_keys_rotate_without_a_restart_and_made_up_ones_do_not_flood_the_provider(issuer, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr("sfumato.agents.access.tokens.time.monotonic", lambda: now[0])

    async def run() -> None:
        tokens = Tokens(issuer.settings)
        await tokens.verify(issuer.token())
        old = issuer.token()
        issuer.add("two", "ES256")
        new = issuer.token("ES256", "two")
        for n in range(20):
            with pytest.raises(TokenError, match="kid"):
                await tokens.verify(raw({"alg": "RS256", "kid": f"made-up-{n}"}, issuer.claims()))
        assert issuer.fetched == 1  # within ten seconds
        now[0] += 11
        await asyncio.gather(*(tokens.verify(new) for _ in range(5)))
        assert issuer.fetched == 2
        await tokens.verify(old)
        del issuer.keys["one"]
        now[0] += 301
        with pytest.raises(TokenError, match="kid"):
            await tokens.verify(old)  # withdrawn

    asyncio.run(run())


def test_while_the_provider_is_away_its_keys_are_trusted_for_an_hour(issuer, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr("sfumato.agents.access.tokens.time.monotonic", lambda: now[0])

    async def run() -> None:
        tokens = Tokens(issuer.settings)
        await tokens.verify(issuer.token())
        issuer.broken = True
        now[0] += 3000
        await tokens.verify(issuer.token())
        now[0] += 601
        with pytest.raises(TokenError, match="cannot be fetched"):
            await tokens.verify(issuer.token())
        issuer.broken = False
        now[0] += 11
        await tokens.verify(issuer.token())

    asyncio.run(run())


def test_a_provider_that_names_another_issuer_is_not_believed(issuer):
    issuer.named = "http://evil.example"
    assert verify(issuer, issuer.token()) == ["the identity provider's keys cannot be fetched"]


def test_the_keys_address_can_be_set(issuer):
    issuer.named = "http://not.asked.example"
    settings = Settings(oidc_issuer=issuer.url, oidc_audience="sfumato", oidc_jwks_url=f"{issuer.url}/keys")
    assert isinstance(verify(issuer, issuer.token(), settings=settings)[0], dict)


def test_scopes_roles_and_cameras_come_from_claims_and_nothing_is_there_without_them(issuer):
    def caller(**claims: Any):  # type: ignore[no-untyped-def]
        (verified,) = verify(issuer, issuer.token(**claims))
        assert isinstance(verified, dict)
        return of_claims(verified)

    nobody = caller()
    assert (nobody.id, nobody.scopes, nobody.cameras) == (f"acme@{issuer.url}", frozenset(), ())
    assert caller(scope="openid cameras:read jobs:read").scopes == {Scope.CAMERAS_READ, Scope.JOBS_READ}
    assert caller(scp=["cameras:read"]).scopes == {Scope.CAMERAS_READ}
    assert caller(roles=["vendor", "president"]).scopes == ROLES[Role.VENDOR]
    assert caller(resource_access={"sfumato": {"roles": ["dam"]}}).scopes == ROLES[Role.DAM]
    for foreign in ({"realm_access": {"roles": ["admin"]}}, {"resource_access": {"other": {"roles": ["admin"]}}}):
        assert caller(**foreign).scopes == frozenset()
    for odd in (7, {"a": 1}, [7, None], None):
        assert caller(scope=odd, roles=odd, cameras=odd, resource_access=odd).scopes == frozenset()
    seen = caller(cameras=["north-*", "hall"], purpose="traffic counts")
    assert (seen.sees("north-1"), seen.sees("hall"), seen.sees("south")) == (True, True, False)
    assert seen.purpose == "traffic counts"


def test_a_token_opens_the_api_by_its_scopes(issuer, tmp_path):
    with application(tmp_path, oidc_issuer=issuer.url, oidc_audience="sfumato") as app:
        caller = client(app)
        token = issuer.token(scope="cameras:read", cameras=["north"])
        answer = caller.get("/v1/session", headers=bearer(token))
        assert answer.json()["scopes"] == ["cameras:read"]
        assert caller.get("/v1/cameras", headers=bearer(token)).status_code == 200
        assert caller.get("/metrics", headers=bearer(token)).status_code == 403
        refused = caller.get("/v1/cameras", headers=bearer(issuer.token(exp=1)))
        assert refused.status_code == 401
        assert "expired" in refused.json()["detail"]
    with application(tmp_path / "none") as app:
        refused = client(app).get("/v1/cameras", headers=bearer(issuer.token()))
        assert (refused.status_code, "SFUMATO_OIDC_ISSUER" in refused.json()["detail"]) == (401, True)
