"""Calls to URLs that callers name: which addresses and forms are refused before anything connects."""

from __future__ import annotations

import pytest

from sfumato.agents.files.outbound import OutboundError, RefusedError, public
from sfumato.agents.settings import SettingsError
from tests.answering import outbound, resolver

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1",
    "2001:0:1::1",
    "2001:db8::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused_before_anything_connects(address):
    guard = outbound(allow=[], resolve=resolver(address))
    with pytest.raises(RefusedError, match="SFUMATO_OUTBOUND_ALLOW"):
        guard.check("https://anything.example/x")
    with pytest.raises(RefusedError, match="SFUMATO_OUTBOUND_ALLOW"):
        guard.fetch("https://anything.example/x", most=10)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111"])
def test_public_addresses_may_be_called(address):
    assert outbound(allow=[], resolve=resolver(address)).check("https://public.example/").host == "public.example"


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    with pytest.raises(RefusedError):
        outbound(allow=[], resolve=resolver(["8.8.8.8", "10.0.0.1"])).check("https://x.example/")


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://\uff10\uff587f.1/",  # as wide letters
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::]/",
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST/",
    ],
)
def test_addresses_in_disguise_are_refused(url):
    """With the real resolver."""
    with pytest.raises(OutboundError):
        outbound(allow=[]).check(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://dam.example/", "SFUMATO_OUTBOUND_HTTP"),
        ("ftp://dam.example/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://dam.example:70/_x", "https"),
        ("//dam.example/", "https"),
        ("dam.example", "https"),
        ("", "https"),
        ("https://user:secret@dam.example/", "user name"),
        ("https://dam.example@evil.example/", "user name"),
        ("https://dam.example:pw@127.0.0.1/", "user name"),
        ("https://evil.example\\@dam.example/", "backslash"),
        ("https://dam.example\\.evil.example/", "backslash"),
        ("https://dam.example/a b", "spaces"),
        ("https://dam.example/\r\nHost: x", "spaces"),
        ("https://dam.example/\tx", "spaces"),
        (" https://dam.example/", "spaces"),
        ("https:///path", "host"),
        ("https://dam.example:0/", "host"),
        ("https://dam.example:99999/", "host name"),
        ("https://[::1/", "host name|URL"),
        ("https://dam%2eexample/", "host name"),
        ("https://a..b/", "host name|URL"),
        ("https://" + "a" * 3000 + "/", "2048"),
    ],
)
def test_forms_that_are_not_allowed_are_refused_with_the_remedy(url, text):
    with pytest.raises(OutboundError, match=text) as refused:
        outbound(allow=[], resolve=resolver("8.8.8.8")).check(url)
    assert "secret" not in str(refused.value)


def test_an_allowed_host_is_no_way_to_the_metadata_service():
    for address in ("169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"):
        with pytest.raises(RefusedError):
            outbound(allow=["dam.internal"], resolve=resolver(address)).check("https://dam.internal/")
    allowed = outbound(allow=["169.254.169.254/32"], resolve=resolver("169.254.169.254"))
    allowed.check("https://metadata.internal/")


@pytest.mark.parametrize("entry", ["", "a b", "https://dam.example", "10.0.0.0/33", "*"])
def test_a_setting_that_is_not_valid_is_named(entry, tmp_path):
    with pytest.raises(SettingsError, match="SFUMATO_OUTBOUND_ALLOW"):
        outbound(allow=[entry])
    with pytest.raises(SettingsError, match="SFUMATO_OUTBOUND_CA"):
        outbound(tmp_path / "none")


def test_public_is_what_the_registries_say():
    import ipaddress

    assert not any(public(ipaddress.ip_address(text)) for text in PRIVATE)
