"""Forms that mean harm, without a server."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.agents.choose import LARGEST_POLICY, Choice, choose
from sfumato.agents.web import receive


def send(content_type: str, body: bytes) -> receive.Received:
    async def message() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    return asyncio.run(receive.receive(Request({"type": "http", "headers": headers}, message), 10**7))


def test_headers_of_parts_are_short():
    """Python's parser takes time by the square of their length: a megabyte would hold the bridge for minutes."""
    head = b'Content-Disposition: form-data; name="image"; x="' + b";" * 2000
    form = b"--x\r\n" + head + b"\r\nContent-Type: image/png\r\n\r\nhello\r\n--x--\r\n"
    with pytest.raises(HTTPException, match="long headers"):
        send("multipart/form-data; boundary=x", form)


def test_a_content_type_is_short():
    with pytest.raises(HTTPException) as refused:
        send('multipart/form-data; boundary=x; y="' + ";" * 2000, b"--x--\r\n")
    assert refused.value.status_code == 415


def test_a_policy_that_is_sent_along_is_no_larger_than_one_that_is_set():
    """What is wrong with 32 MB of unknown names would fill the memory."""
    with pytest.raises(HTTPException, match="policy: more than 1048576 bytes") as refused:
        choose(Choice(), b" " * (LARGEST_POLICY + 1), None, None)  # type: ignore[arg-type]
    assert refused.value.status_code == 413
