"""Access tokens for aiokafka (OAUTHBEARER); librdkafka fetches its own."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any
from urllib.parse import quote

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from sfumato.agents.connection import readable, secret
from sfumato.agents.settings import Settings

TOKEN_TIMEOUT = 10.0
"""Seconds for the token endpoint to answer."""
LARGEST_TOKEN = 256 * 1024
USED_FOR = 0.8
"""Share of a token's life after which a new one is asked for."""


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Access tokens for aiokafka by client credentials (RFC 6749, section 4.4)."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._scope = settings.kafka_token_url, settings.kafka_token_scope
        # RFC 6749, section 2.3.1: encoded as a form before HTTP Basic.
        self._client = (quote(settings.kafka_username, safe=""), quote(secret(settings), safe=""))
        ca = readable(settings, "kafka_token_ca_file") if settings.kafka_token_ca_file else None
        self._tls = ssl.create_default_context(cafile=ca)
        self._token, self._until = "", float("-inf")

    async def token(self) -> str:
        """A token that is valid for a while. KafkaConnectionError, on which aiokafka tries again, says why not."""
        if time.monotonic() >= self._until:
            asked = time.monotonic()
            try:
                answer = await self._ask()
                self._token, life = str(answer["access_token"]), float(answer.get("expires_in", 0))
            except httpx.HTTPStatusError as error:
                raise KafkaConnectionError(f"SFUMATO_KAFKA_TOKEN_URL answers {error.response.status_code}") from None
            except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise KafkaConnectionError(f"SFUMATO_KAFKA_TOKEN_URL: no token: {type(error).__name__}") from None
            self._until = asked + USED_FOR * life
        return self._token

    async def _ask(self) -> Any:
        form = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        client = httpx.AsyncClient(timeout=TOKEN_TIMEOUT, follow_redirects=False, verify=self._tls)
        async with client, client.stream("POST", self._url, data=form, auth=self._client) as answer:
            answer.raise_for_status()
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > LARGEST_TOKEN:
                    raise ValueError("too large")
        return json.loads(body)
