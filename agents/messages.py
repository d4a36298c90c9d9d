"""A message as confluent-kafka hands it over, in the types that contracts read."""

from __future__ import annotations

from confluent_kafka import Message

from sfumato.schemas.cloudevent import EnvelopeError, Headers


def key(message: Message) -> bytes | None:
    return to_bytes(message.key())


def value(message: Message) -> bytes | None:
    return to_bytes(message.value())


def headers(message: Message) -> Headers:
    """:class:`EnvelopeError` where a name is not UTF-8."""
    try:
        found = message.headers() or []
    except SystemError:  # confluent-kafka's answer to a header name that is not UTF-8
        raise EnvelopeError("headers", "a name is not UTF-8") from None
    return list(found.items()) if isinstance(found, dict) else found


def to_bytes(given: str | bytes | None) -> bytes | None:
    return given.encode() if isinstance(given, str) else given
