"""Redaction: what is masked, what passes, and that time is linear."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.text.redact import MASK, clean, excerpt, redact, redact_value, tail
from tests.text.secret_table import HARMLESS
from tests.text.secret_table import SECRETS as SECRET_TABLE

R = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7z"
SECRETS = [
    f"sk-ant-api03-{R}",
    f"sk-proj-{R}",
    f"sk_live_{R}",
    f"ghp_{R}",
    f"github_pat_{R}",
    f"glpat-{R}",
    f"xoxb-123456789012-{R}",
    "AKIAIOSFODNN7EXAMPLE",
    f"AIza{R}{R}",
    f"ya29.{R}",
    f"hvs.{R}",
    f"SG.{R}.{R}",
    f"hf_{R}",
    f"npm_{R}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "1234567890:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{R}\n{R}\n-----END OPENSSH PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "a {} b", '"{}"', "KEY={}\n", "x={},y", "\\n{}\\n", "<{}>", "PREFIX_{}", "é{}中", "\u0130 {}"]
)
def test_issued_tokens_are_masked_wherever_they_stand(secret: str, around: str) -> None:
    if around == "PREFIX_{}" and secret[0] in "-1":
        pytest.skip("cannot be told from a longer number there")
    if around == "PREFIX_{}" and secret.startswith(("ya29", "hvs", "SG.")):
        around = "PREFIX {}"
    masked = redact(around.format(secret))
    assert secret not in masked
    assert R not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password: hunter2 and on", "password: [redacted] and on"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=[redacted] psql"),
        ("password=a,b;c&d x", "password=[redacted] x"),
        ("user=me&password=abcd&x=1", "user=me&password=[redacted]&x=1"),
        ('{"password": "two words"}', '{"password": "[redacted]"}'),
        ('{\\"api_key\\": \\"hunter22\\"}', '{\\"api_key\\": \\"[redacted]\\"}'),
        ("AWS_SECRET_ACCESS_KEY=abc/def+123", "AWS_SECRET_ACCESS_KEY=[redacted]"),
        ("apiKey: 'abcd1234'", "apiKey: '[redacted]'"),
        ("x-api-key: abcd1234", "x-api-key: [redacted]"),
        ("--token abcd1234 --x", "--token [redacted] --x"),
        ("--password hunter", "--password [redacted]"),
        ("MYSQL_PWD=hunter2", "MYSQL_PWD=[redacted]"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted]"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic [redacted]"),
        ("curl -H 'Authorization: token abc123'", "curl -H 'Authorization: token [redacted]'"),
        ("Cookie: sid=abc; other=d", "Cookie: [redacted]"),
        ("postgres://u:p4ss@h/db", "postgres://u:[redacted]@h/db"),
        ("https://u:p@ss@h/x", "https://u:[redacted]@h/x"),
        ("AccountKey=abcd1234==;Endpoint=x", "AccountKey=[redacted];Endpoint=x"),
    ],
)
def test_values_that_are_named_as_secrets_are_masked(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "The token: when it expires, a new one is asked for.",
        "tokens: 12,345 (max_tokens=4096)",
        "def login(user: str, password: str, token: bytes | None = None)",
        "token = get_token(request)",
        "password = os.environ['X']",
        "API_KEY=${API_KEY} and TOKEN=$TOKEN",
        "PWD=/home/me",
        "a task-management-of-many-things and risk-assessment-procedures",
        "sk-learn-and-other-long-words-with-dashes",
        "see https://example.com:8080/path?x=1 and git@github.com:a/b",
        "8baccc7b-1eae-47ba-8124-963f9eac825c 0123456789abcdef0123456789abcdef01234567",
        "the bearer instruments are authorization: the process of allowing",
        "primary key: order_id; foreign key: user",
        "cookie: a small file",
        "---- BEGIN ---- of a story",
    ],
)
def test_prose_and_code_pass_unchanged(text: str) -> None:
    assert redact(text) == text


def test_a_key_block_without_its_end_is_masked_to_the_end() -> None:
    assert redact(f"a\n-----BEGIN RSA PRIVATE KEY-----\n{R}\n") == "a\n[redacted]"


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


PIECES = [
    "x",
    "-",
    "_",
    "a.",
    "eyJ-",
    "-eyJ",
    "sk-",
    "token",
    "token=",
    'token="',
    "api_key",
    "://",
    "://a:b@",
    "secret    ",
    "passw\\",
    "password=1",
    "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----",
    "cookie:",
    "bearer ",
    "authorization: basic ",
    "\x1b[0",
    "\x1b]",
    "\x1bP",
    "--token ",
    "passw\"'`",
    'passw:\\"',
    "\u0130",
    "\u4e2d",
    "pwd=&a=",
    "-A-G-",
    "\0",
    "1:",
]


PIECES += [
    *(
        "token=a(",
        "password=a(",
        "secret=self.",
        "api_key: x[",
        "secret: [",
        'secret=("',
        "token: '",
        "token=`",
        "pass:",
    ),
    *("mysql -p", "curl -u a:", "sshpass ", " login -p ", "http -a ", "zip -P", "htpasswd -b a ", "basic YTpi ", "$6$"),
    *("auth='a','b'", '"auth":"YTpi"', "cookie a=", "secret,", "a,secret\n", "password|", "@tcp(", "a:5432:", "://a@"),
    *(
        "hooks.slack.com/services/",
        "Q~",
        "<password>",
        "<password ",
        "password: |\n ",
        "key=",
        "&key=",
        "sig=",
        "eyJa.",
    ),
    *("ENV token ", "login a password ", "password is ", "password for a: ", "password.py:", "::a[token=", "token::"),
    *("::a[token=$2b$", "::a[sessid=x/", "token_type=$2b$", f"secret={'a' * 200}<"),
]


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_time_is_linear_in_hostile_input(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        begin = time.process_time()
        redact(text)
        clean(text)
        return time.process_time() - begin

    small, large = took(1 << 13), took(1 << 17)
    assert large < max(1.0, 64 * small)  # 16 times as much; quadratic would be 256


FRAGMENTS = [*PIECES, *(word for text in ("a=b:c(d[e{f", "\"'`\\ ,;|<>\n") for word in text), "x" * 40, "Aa1" * 20]


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_time_is_linear_in_any_mixture(fragments: list[str]) -> None:
    """A unit repeated to 128 KiB: what is quadratic takes minutes, and this is a bound for a busy machine."""
    unit = "".join(fragments)
    text = unit * (1 + (1 << 17) // len(unit))
    begin = time.process_time()
    redact(text)
    assert time.process_time() - begin < 10


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join))
@settings(max_examples=300, deadline=None)
def test_strings_that_are_redacted_together_stay_apart(text: str) -> None:
    assert redact(text).count("\0") == text.count("\0")


@pytest.mark.parametrize(
    ("kind", "text", "secret"), SECRET_TABLE, ids=[f"{n} {row[0]}" for n, row in enumerate(SECRET_TABLE)]
)
def test_a_realistic_secret_is_masked(kind: str, text: str, secret: str) -> None:
    assert secret in text, kind
    assert secret not in redact(text)
    # Inside a JSON document, and next to other text.
    assert secret not in redact(json.dumps({"text": text}))
    assert secret not in redact(f"see: {text}") or "\n" in text
    assert secret not in json.dumps(redact_value({"x": [text]}))


def test_harmless_text_passes() -> None:
    masked = [text for text in HARMLESS if redact(text) != text]
    assert len(masked) <= len(HARMLESS) // 50, masked  # it is a heuristic


def test_the_rates_of_the_table() -> None:
    missed = [kind for kind, text, secret in SECRET_TABLE if secret in redact(text)]
    assert (missed, len(SECRET_TABLE) > 200, len(HARMLESS) > 250) == ([], True, True)


def test_values_are_redacted_throughout() -> None:
    value = {"a": [f"x ghp_{R}", {"password": "p", "n": 1}], f"ghp_{R}": None, "token": "t", "max_tokens": 5, "f": 1.5}
    assert redact_value(value) == {
        "a": [f"x {MASK}", {"password": MASK, "n": 1}],
        MASK: None,
        "token": MASK,
        "max_tokens": 5,
        "f": 1.5,
    }


def test_what_json_cannot_carry_is_replaced() -> None:
    assert redact_value([float("nan"), float("inf"), 10**400, 2**70, "\ud800", "a\0b"]) == [
        None,
        None,
        None,
        float(2**70),
        "\ufffd",
        "a\ufffdb",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.sampled_from("ab: ={}\n\"'")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from("xyz")), inner, max_size=4),
)


@given(json_values)
def test_a_value_without_secrets_comes_back_as_it_was(value: Any) -> None:
    assert redact_value(value) == value


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1bPq#payload\x1b\\x", "x"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("tab\tstays", "tab\tstays"),
        ("\u202eevil\u2069\x9b\x00", "\ufffdevil\ufffd\ufffd\ufffd"),
        ("\ud800", "\ufffd"),
    ],
)
def test_control_and_direction_characters_are_taken_out(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_tail_is_short_and_begins_with_a_whole_line() -> None:
    assert tail(b"") is None
    assert tail(b" \n") is None
    assert tail(b"short\n") == "short"
    long = tail(b"".join(b"line %d\n" % number for number in range(1000)))
    assert long is not None
    assert long.startswith("... line ")
    assert long.endswith("line 999")
    assert len(long) <= 404
    assert tail(b"\xff\xfe") == "\ufffd\ufffd"


@pytest.mark.parametrize("at", range(300, 3300, 97))
def test_an_excerpt_never_shows_half_a_secret(at: int) -> None:
    text = "word " * (at // 5) + f"password=hunter{R}" + " word" * 2000
    short = excerpt(text)
    assert len(short) <= 404
    assert R[:8] not in short
    assert "hunter" not in short
