"""Access tokens of an identity provider: JWTs (RFC 7519, RFC 9068), checked against its public keys (RFC 7517).

Only asymmetric algorithms are taken, and each only with a key of its own kind, so that ``none`` and a public key used
as an HMAC secret open nothing. Keys come from the provider that the settings name, never from a token's header.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc import jwk, jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError, SecurityWarning

from sfumato.agents.settings import Settings
from sfumato.schemas.scope import ROLES, Role, Scope

log = logging.getLogger(__name__)
# "EdDSA" gave way to "Ed25519" (RFC 9864), the same algorithm; providers still say it.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)

KINDS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}
"""The algorithms, and the kind of key that each goes with."""
CURVES = {"EC": "P-256", "OKP": "Ed25519"}
LEAST_RSA_BITS = 2048
TYPES = ("jwt", "at+jwt", "application/at+jwt")
HEADER = frozenset({"alg", "kid", "typ"})
"""All that a token's header may hold. ``jku``, ``x5u``, ``jwk``, ``x5c`` would let it bring its own key."""
LEEWAY = 30
"""Seconds by which the provider's clock may differ."""
LONGEST_LIFE = 24 * 3600
"""Seconds between a token's ``iat`` and ``exp`` at most: an access token cannot be called back."""
LONGEST_NAME = 300
REFRESH, KEEP = 300.0, 3600.0
"""Seconds after which the provider's keys are fetched again, and for which they are trusted while that fails."""
PAUSE = 10.0
"""Seconds between two fetches: tokens with made-up ``kid`` cannot make the bridge flood the provider."""
FETCH_TIMEOUT = 5.0
LARGEST_ANSWER = 1024 * 1024


class TokenError(ValueError):
    """The token opens nothing; the text says why, and holds nothing of it."""


class Tokens:
    """Verifies access tokens; all methods belong to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._issuer, self._audience = settings.oidc_issuer, settings.oidc_audience
        self._keys = Provider(settings.oidc_issuer, settings.oidc_jwks_url)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
            iat={"essential": True},
        )

    async def verify(self, text: str) -> Mapping[str, Any]:
        """The claims of a valid token, with ``sfumato_audience``; else :class:`TokenError`."""
        if not self._issuer:
            raise TokenError("not an API key, and SFUMATO_OIDC_ISSUER names no provider of access tokens")
        algorithm, kid = _header(text)
        key = await self._keys.find(kid, algorithm)
        try:
            claims: dict[str, Any] = jwt.decode(text, key, algorithms=[algorithm]).claims
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise TokenError("the access token has expired") from None
        except (JoseError, ValueError, TypeError, OverflowError, RecursionError) as error:
            claim = getattr(error, "claim", None)
            raise TokenError(f"the access token is not valid{f': {claim}' if claim else ''}") from None
        if claims["exp"] - claims["iat"] > LONGEST_LIFE:
            raise TokenError(f"the access token is not valid: exp is over {LONGEST_LIFE // 3600} hours after iat")
        if not _name(claims):
            raise TokenError("the access token is not valid: it has neither sub nor client_id")
        if len(subject(claims)) > LONGEST_NAME or not subject(claims).isprintable():
            raise TokenError(f"the access token is not valid: sub and iss want {LONGEST_NAME} letters at most")
        return {**claims, "sfumato_audience": self._audience}


class Provider:
    """The public keys of the identity provider, by ``kid``; fetched when one is needed, and again as they rotate."""

    def __init__(self, issuer: str, url: str) -> None:
        self._issuer, self._url = issuer, url
        self._keys: dict[str, jwk.Key] = {}
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str, algorithm: str) -> jwk.Key:
        """The key of this id, which goes with this algorithm; else :class:`TokenError`."""
        now = time.monotonic()
        if kid not in self._keys or now - self._fetched > REFRESH:
            async with self._lock:
                if time.monotonic() - self._tried > PAUSE:
                    await self._fetch()
        if time.monotonic() - self._fetched > KEEP:
            raise TokenError("the identity provider's keys cannot be fetched")
        key = self._keys.get(kid)
        if key is None:
            raise TokenError("the identity provider has no such key (kid)")
        if key.key_type != KINDS[algorithm] or key.get("alg") not in (None, algorithm):
            raise TokenError("its algorithm (alg) is not that of the key (kid)")
        return key

    async def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            async with httpx.AsyncClient(timeout=FETCH_TIMEOUT, follow_redirects=False) as client:
                if not self._url:
                    self._url = await self._discover(client)
                keys = _public_keys(await _get(client, self._url))
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, JoseError, RecursionError) as error:
            log.error("the identity provider's keys cannot be fetched: %s", type(error).__name__)
            return
        self._keys, self._fetched = keys, time.monotonic()

    async def _discover(self, client: httpx.AsyncClient) -> str:
        """OpenID Connect Discovery 1.0, section 4: the document must name the issuer that was asked for."""
        document = await _get(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        url = document["jwks_uri"]
        if document["issuer"] != self._issuer or urlsplit(url).scheme not in ("https", urlsplit(self._issuer).scheme):
            raise ValueError("another issuer")
        return str(url)


async def _get(client: httpx.AsyncClient, url: str) -> Any:
    body = b""
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > LARGEST_ANSWER:
                raise ValueError("too large")
    return json.loads(body)


def _public_keys(document: Any) -> dict[str, jwk.Key]:
    """Those that can verify one of our algorithms; whatever else the provider publishes is left out."""
    found: dict[str, jwk.Key] = {}
    for each in document["keys"]:
        kid, kind = each.get("kid"), each.get("kty")
        fits = isinstance(kid, str) and kind in KINDS.values() and each.get("use", "sig") == "sig"
        if fits and each.get("crv") == CURVES.get(kind):
            public = {name: value for name, value in each.items() if name in ("kty", "crv", "x", "y", "n", "e", "kid")}
            try:
                key = jwk.import_key(public | ({"alg": each["alg"]} if "alg" in each else {}))
            except (JoseError, ValueError, TypeError):
                continue
            if not isinstance(key, jwk.RSAKey) or key.public_key.key_size >= LEAST_RSA_BITS:
                found[kid] = key
    return found


def _header(text: str) -> tuple[str, str]:
    """``alg`` and ``kid``."""
    try:
        header = jws.extract_compact(text.encode()).headers()
    except (JoseError, ValueError, TypeError, RecursionError):
        raise TokenError("not an API key, and not an access token (JWT)") from None
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if header.keys() - HEADER:
        raise TokenError("an access token's header may hold alg, kid and typ alone")
    if not isinstance(algorithm, str) or algorithm not in KINDS:
        raise TokenError(f"an access token's alg wants to be one of {', '.join(KINDS)}")
    if not isinstance(kid, str) or not kid:
        raise TokenError("an access token's header wants a kid")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenError("not an access token: its typ is another")
    return algorithm, kid


def subject(claims: Mapping[str, Any]) -> str:
    """Who it is, in audit and usage."""
    return f"{_name(claims)}@{claims['iss']}"


def _name(claims: Mapping[str, Any]) -> str:
    named = (claims.get(claim) for claim in ("sub", "client_id", "azp"))
    return next((name for name in named if isinstance(name, str) and name), "")


def scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Of ``scope`` (RFC 8693, words), ``scp`` (a list), and of the roles in ``roles`` and, as Keycloak has it, in
    ``resource_access`` of our audience. Roles that are the provider's own (``realm_access``) mean nothing here."""
    words = claims.get("scope")
    named = {*words.split()} if isinstance(words, str) else set()
    named |= _words(claims.get("scp"))
    own = claims.get("resource_access")
    own = own.get(claims["sfumato_audience"]) if isinstance(own, dict) else None
    roles = _words(claims.get("roles")) | _words(own.get("roles") if isinstance(own, dict) else None)
    granted = {scope for scope in Scope if scope in named}
    return frozenset(granted.union(*(ROLES[role] for role in Role if role in roles)))


def cameras(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the claim ``cameras``: ids and patterns; without it none."""
    return tuple(sorted(_words(claims.get("cameras"))))


def _words(claim: Any) -> set[str]:
    if isinstance(claim, str):
        return {*claim.split()}
    return {word for word in claim if isinstance(word, str)} if isinstance(claim, list) else set()
