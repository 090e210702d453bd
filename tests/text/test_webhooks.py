"""Signatures of webhooks, and the URLs and addresses that they may be sent to."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_address

import pytest

from supervisor.text.webhook_signatures import new_secret, parse_secrets, sign
from supervisor.text.webhook_urls import is_allowed, parse_networks, parse_url

# The vector in the tests of the libraries of github.com/standard-webhooks/standard-webhooks, which they all share, for
# one libraries/python/tests/test_webhooks.py, test_sign_function, at commit b2fa7b8719fb75d326b591077f5d1b385cfcdfae.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_specification() -> None:
    headers = sign(parse_secrets(SECRET), EVENT, 1614265330, b'{"test": 2432232314}')
    assert dict(headers) == {
        "webhook-id": EVENT,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def verified(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Verify as the specification says (Verifying webhook authenticity), with nothing of the code that signs."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
    given = (each.split(",", 1) for each in headers["webhook-signature"].split(" "))
    return any(version == "v1" and hmac.compare_digest(each, expected) for version, each in given)


def test_a_receiver_that_follows_the_specification_accepts_each_secret_of_a_rotation_and_no_other() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    headers = dict(sign(parse_secrets(f"{new} {old}"), EVENT, 1614265330, b"{}"))
    assert [verified(each, headers, b"{}") for each in (new, old, other)] == [True, True, False]
    assert not verified(new, headers, b"{ }")
    assert not verified(new, {**headers, "webhook-timestamp": "1614265331"}, b"{}")
    assert not verified(new, {**headers, "webhook-id": "evt_2"}, b"{}")


def test_during_a_rotation_both_secrets_sign() -> None:
    another = new_secret()
    signed = dict(sign(parse_secrets(f"{another} {SECRET}"), EVENT, 1614265330, b'{"test": 2432232314}'))
    first, second = signed["webhook-signature"].split()
    assert second == SIGNATURE
    assert first.startswith("v1,")
    assert first != second


@pytest.mark.parametrize("length", [24, 64])
def test_a_key_of_the_allowed_lengths(length: int) -> None:
    assert parse_secrets("whsec_" + base64.b64encode(bytes(length)).decode()) == [bytes(length)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret-word",
        "whsec_",
        "whsec_secret-word",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        base64.b64encode(bytes(32)).decode(),
        f"{SECRET} {SECRET} {SECRET}",
        f"{SECRET} secret-word",
        "whsec_\N{SNOWMAN}",
    ],
)
def test_what_is_no_secret_is_not_in_the_message(text: str) -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        parse_secrets(text)
    assert not any(word and word in str(raised.value).replace("whsec_ and", "") for word in text.split())


@pytest.mark.parametrize(
    ("text", "shown", "target", "host"),
    [
        ("https://example.com", "https://example.com", "/", "example.com"),
        ("HTTPS://Example.COM:443/a/b?c=d&e", "https://example.com", "/a/b?c=d&e", "example.com"),
        ("https://example.com.:8443?x", "https://example.com:8443", "/?x", "example.com"),
        ("https://8.8.8.8/", "https://8.8.8.8", "/", "8.8.8.8"),
        ("https://[2606:4700::1111]:444/", "https://[2606:4700::1111]:444", "/", "2606:4700::1111"),
        ("http://127.0.0.1:8000/x", "http://127.0.0.1:8000", "/x", "127.0.0.1"),
        ("http://[::1]/", "http://[::1]", "/", "::1"),
        ("http://localhost:1", "http://localhost:1", "/", "localhost"),
    ],
)
def test_a_url_that_is_accepted(text: str, shown: str, target: str, host: str) -> None:
    url = parse_url(text)
    assert (str(url), url.target, url.host) == (shown, target, host)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must begin with https"),
        ("example.com", "must begin with https"),
        ("ftp://example.com", "must begin with https"),
        ("http://example.com/", "must be https"),
        ("http://169.254.169.254/latest/meta-data", "must be https"),
        ("https:///path", "no host"),
        ("https://", "no host"),
        ("https://:443/", "no host"),
        ("https://user@example.com/", "user name"),
        ("https://user:secret-word@example.com/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com\\@10.0.0.1/", "user name"),
        ("https://example.com:99999/", "port"),
        ("https://example.com:x/", "port"),
        ("https://example.com:0/", "port"),
        ("https://[::1/", "cannot be understood"),
        ("https://example.com/#secret-word", "fragment"),
        ("https://example.com/a b", "must encode"),
        ("https://example.com/\r\nX: secret-word", "must encode"),
        ("https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/", "xn--"),
        ("https://example.com/" + "x" * 2048, "2048"),
        *(
            (f"https://{address}/", "not public")
            for address in (
                *("169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
                *("240.0.0.1", "255.255.255.255", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:10.0.0.1]"),
                *("[::ffff:127.0.0.1]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "[2001:0:808:808::f5ff:fffe]"),
                *("[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]"),
                *("[::ffff:0.0.0.0]", "[::127.0.0.1]", "[::ffff:0:7f00:1]", "[64:ff9b:1::a9fe:a9fe]", "[fec0::1]"),
                *("[fd00:ec2::254]", "[2001:db8::1]", "[3fff::1]", "[5f00::1]", "[100::1]", "192.0.0.8", "198.18.0.1"),
            )
        ),
    ],
)
def test_a_url_that_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        parse_url(text)
    assert "secret-word" not in str(raised.value)


def test_a_gateway_to_ipv4_is_judged_by_the_address_that_it_sends_to() -> None:
    """On a network with IPv6 alone, each receiver that has only IPv4 has such an address."""
    assert is_allowed(ip_address("64:ff9b::808:808"))
    assert not is_allowed(ip_address("64:ff9b::7f00:1"))
    assert not is_allowed(ip_address("64:ff9b::7f00:1"), loopback=True)


def test_a_network_that_is_allowed() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00::/8")
    assert parse_url("https://10.1.2.3/", allowed).host == "10.1.2.3"
    assert is_allowed(ip_address("fd00::1"), allowed)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), allowed)
    for address in ("10.2.0.1", "127.0.0.1", "::1", "fe80::1%1"):
        assert not is_allowed(ip_address(address), allowed)


def test_a_name_reaches_this_machine_only_if_the_url_says_so() -> None:
    for address in map(ip_address, ("127.0.0.1", "::1")):
        assert not is_allowed(address)
        assert is_allowed(address, loopback=True)
    assert not is_allowed(ip_address("10.0.0.1"), loopback=True)
    assert not is_allowed(ip_address("8.8.8.8"), loopback=True)
