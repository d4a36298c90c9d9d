"""Forms that mean harm, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.agents.access.callers import Caller
from sfumato.agents.choose import LARGEST_POLICY, Choice, choose
from sfumato.agents.web import receive
from sfumato.models.timetable import Timetable
from sfumato.schemas.floor import Floor
from sfumato.schemas.job import PolicyChoice
from tests.films import policy


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
        Choice().with_inline(b" " * (LARGEST_POLICY + 1))
    assert refused.value.status_code == 413


@pytest.mark.parametrize(("cameras", "allowed"), [(("*",), True), (("north-*",), True), (("north-?",), False)])
def test_a_policy_for_more_cameras_than_the_callers_is_not_used(cameras, allowed):
    """The pattern north-? matches the text north-*, and does not stand for all of its cameras."""
    register = SimpleNamespace(in_force={"north-*": Timetable(policy())}, applies=lambda name: "north-*")
    standing = SimpleNamespace(policies=SimpleNamespace(look=lambda ask: ask(register)), floor=Floor())
    caller = Caller("key:x", frozenset(), cameras, "")
    if allowed:
        assert choose(PolicyChoice(name="north-*"), standing, caller).named  # type: ignore[arg-type]
        return
    with pytest.raises(HTTPException, match="known: none"):
        choose(PolicyChoice(name="north-*"), standing, caller)  # type: ignore[arg-type]
