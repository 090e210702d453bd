"""Finding secrets by their shape: issued tokens, key blocks, credentials in URLs, headers and command lines.

The issuers publish prefixes and lengths; the set was compared with the lists of gitleaks (MIT) and detect-secrets
(Apache 2.0).

The rule of linearity, here and in ``secret_names``: no regular expression searches the text. ``str.find`` finds
candidates, and a pattern is *matched* at each candidate. A pattern either has an upper bound on what it reads, or
masks what it consumes, which is not read again for the same kind of candidate.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Generator, Iterator
from typing import Final

__all__ = ["Span", "find_all", "is_basic", "spans"]

Span = tuple[int, int]

_RUN: Final = b"a" * 16
_FOLD: Final = bytes(97 if chr(i).isascii() and (chr(i).isalnum() or chr(i) in "_-") else 32 for i in range(256))
_TOKEN: Final = re.compile(
    r"""
      (?:sk|rk|pk)-(?=[a-z_-]{0,60}[0-9A-Z])[A-Za-z0-9_-]{16,}        # Anthropic, OpenAI and many others
    | (?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9+/=]{16,}          # Stripe and others
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | gl(?:pat|ptt|rt|dt|soat|cbt|oas|agent|ft|imt|ffct)-[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_.-]{1,64})?
    | GR1348941[A-Za-z0-9_-]{20,}
    | xox[abeoprs]-[A-Za-z0-9-]{10,} | xoxe\.xox[bp]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{12,}
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])
    | LTAI[A-Za-z0-9]{12,30}(?![A-Za-z0-9]) | AKID[A-Za-z0-9]{32}(?![A-Za-z0-9])
    | AIza[A-Za-z0-9_-]{30,} | GOCSPX-[A-Za-z0-9_-]{20,}
    | (?:npm|hf|dop_v1|doo_v1|dor_v1|dckr_pat|dckr_oat|ntn|gsk|lin_api|lin_oauth|shpat|shpss|shppa|shpca|figd|figo
        |r8|sbp|nfp|bkua|glsa
        |pscale_(?:tkn|oauth|pw)|rubygems|rdme|sntryu|sntrys|squ|sqp|sqa|sgp|tfp|lsv2_(?:pt|sk)|pnu|duffel_(?:live|test)|shippo_(?:live|test)
        |CCIPAT|fo1|fm2|glc|vercel|ATCTT3xFfG|hvs|secret|cfut|cfat|ops)_(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{20,}={0,2}
    | (?:pypi|xai|pplx|tvly|pul|NRAK|NRJS|NRII|PMAK|HRKU|EZAK|EZTK|ico|tskey|tk-us|csk|nvapi|rpa|atlas|fio-u
        |xkeysib|xsmtpsib)-
        (?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{16,}
    | ATATT3[A-Za-z0-9_-]{30,}={0,2} | ATBB[A-Za-z0-9_-]{24,} | AKCp[A-Za-z0-9]{10,}
    | EAA[A-Za-z0-9]{40,} | sq0[a-z]{3}-[A-Za-z0-9_-]{20,} | FLWSECK(?:_TEST)?-[A-Za-z0-9-]{12,}
    | pat[A-Za-z0-9]{14}\.[0-9a-f]{32,} | pat-(?:na|eu)1-[0-9a-f-]{36}
    | access-(?:sandbox|development|production)-[0-9a-f-]{36}
    | (?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])                            # Twilio
    | key-[0-9a-f]{32}(?![A-Za-z0-9]) | [0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}(?![A-Za-z0-9-])   # Mailgun
    | [0-9a-f]{32}-us[0-9]{1,2}(?![A-Za-z0-9-])                       # Mailchimp
    | dapi[0-9a-f]{32} | AGE-SECRET-KEY-1[A-Z0-9]{20,}
    """,
    re.VERBOSE,
)
# A JSON web token; matched only where the run ends in a dot, since the pattern reads the whole run.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+){0,3}")
# A token after a separator in the same run, as in TOKEN_ghp_... The first set makes the search fast.
_INSIDE: Final = re.compile(
    r"[_-](?=sk-|sk_|rk|pk|gh|github|gl|xo|xapp|A|G|npm|hf|do|dckr|eyJ|pypi|xai|wh|gsk|key-|nvapi|lsv|r8|shp)"
)
# Tokens whose prefix ends in a dot, a colon or a tilde: the run of 16 follows it.
_DOTTED: Final = re.compile(
    r"(?:ya29|hv[sbr]|SG|dp\.(?:pt|st|ct|sa|scim|audit)|dt0[a-z][0-9]{2}|sk|pk|atlasv1|sl|1//0?[A-Z]?)\.?\Z|(?<![0-9])[0-9]{8,10}:\Z|sha256~\Z"
)
_DOTTED_REST: Final = re.compile(r"[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]+)*")
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[^\x00]*?(?:-----END [A-Z0-9 ]{0,40}-----|(?=\x00)|\Z)",
)
_AZURE: Final = re.compile(r"[A-Za-z0-9_.~-]{3}[0-9]Q~[A-Za-z0-9_.~-]{30,40}")

# -- URLs ---------------------------------------------------------------------------------

# A password may hold an @ itself: up to the last one before the path. A port is no password.
_URL: Final = re.compile(
    r"""://(?:[^\s/:@"'<>\x00]{0,256}:(?![0-9]{1,5}[?#])(?P<secret>[^\s/"'<>\x00]+)@
      |(?P<user>(?=[^@\s]{0,60}[0-9])(?=[^@\s]{0,60}[A-Za-z])[A-Za-z0-9_.~%+-]{16,256})@)""",
    re.VERBOSE,
)
_USER: Final = re.compile(r"(?=[^:@\s]{0,60}[0-9])(?=[^:@\s]{0,60}[A-Za-z])[A-Za-z0-9_~+-]{16,256}:")
_END: Final = r"""[^\s"'<>\\\x00)\]}`]{8,}"""
_WEBHOOKS: Final = {
    "hooks.slack.com/": rf"(?:services|workflows|triggers)/(?P<secret>{_END})",
    "/api/webhooks/": rf"[0-9]{{5,25}}/(?P<secret>{_END})",
    ".webhook.office.com/": rf"webhookb2/(?P<secret>{_END})",
    "outlook.office.com/webhook/": rf"(?P<secret>{_END})",
    "hooks.zapier.com/hooks/": rf"catch/(?P<secret>{_END})",
    "api.telegram.org/bot": r"(?P<secret>[0-9]{5,12}:[A-Za-z0-9_-]{16,})",
    "/with/key/": rf"(?P<secret>{_END})",
    "open-apis/bot/v2/hook/": rf"(?P<secret>{_END})",
    ".make.com/": r"(?P<secret>[a-z0-9]{24,64})\b",
    "/hooks/": r"(?P<secret>[a-z0-9]{26})(?![\w-])",
}
_WEBHOOK: Final = {literal: re.compile(pattern) for literal, pattern in _WEBHOOKS.items()}

# -- headers ------------------------------------------------------------------------------

_BEARER: Final = re.compile(
    r"bearer\s{1,4}(?P<secret>(?=[A-Za-z._~+/=-]{0,60}[0-9]|\S{20})[A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE
)
_BASIC: Final = re.compile(r"basic\s{1,4}(?P<secret>[A-Za-z0-9+/]{6,1024}={0,2})", re.IGNORECASE)
_QUOTE: Final = r"""\\{0,7}["'`]?"""
_SEPARATOR: Final = _QUOTE + r"""\]?\s{0,8}(?::=|=>|[:=,])\s{0,8}"""
_AUTHORIZATION: Final = re.compile(
    r"authorization"
    + _SEPARATOR
    + _QUOTE
    + r"""(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256|hmac|bot|key|oauth|splunk|sso-key)[\s=]{1,4}
      (?P<secret>[^\r\n"'`\\\x00]{4,}) | (?P<bare>(?=[^\s"'`]{0,60}[0-9])[^\s"'`\\\x00]{8,}))""",
    re.IGNORECASE | re.VERBOSE,
)
_COOKIE: Final = re.compile(
    r"cookie(?:" + _SEPARATOR + r"|\s{1,4}|s=\{)" + _QUOTE + r"(?P<secret>(?=[^\s=;,:]{1,64}=)[^\r\n\"'`\\\x00]{4,})",
    re.IGNORECASE,
)
_DOCKER: Final = re.compile(r"""\\{0,7}["']\s{0,4}:\s{0,4}\\{0,7}["'](?P<secret>[A-Za-z0-9+/_-]{6,4096}={0,2})""")
_PAIR: Final = re.compile(
    r"""(?:=|\()\s{0,4}\(?\s{0,4}["'][^"'\r\n\x00]{0,100}["']\s{0,4},\s{0,4}["'](?P<secret>[^"'\r\n\x00]{1,200})["']""",
    re.IGNORECASE,
)
_GO_DSN: Final = re.compile(r"""(?:\A|[\s\x00"'`=(/])[\w.-]{1,64}:(?P<secret>[^\s"'`\x00]{1,128})@\Z""")

# -- command lines ------------------------------------------------------------------------

_GAP: Final = r"""[\s"',]{1,6}"""  # between words: of a shell, of a list in JSON or Python
_WORD: Final = r"""["']?(?!\$\{|\$[A-Z_]{1,64}(?!\w))(?P<secret>[^\s"',\x00\[\]]{1,200})"""  # no variable of a shell
_NO_PORT: Final = r"(?!-|[0-9]{1,5}(?![^\s:/]))"
_GLUED: Final = r"""(?!\s|,|["'](?:[\s,\]]|\Z))"""
_COMMANDS: Final = {
    "sshpass": rf"-p[\s\"',]{{0,6}}{_WORD}",
    "mysql": rf"{_GAP}-p{_GLUED}{_NO_PORT}{_WORD}",
    "mariadb": rf"{_GAP}-p{_GLUED}{_NO_PORT}{_WORD}",
    "mongo": rf"{_GAP}-p[\s\"',]{{0,6}}{_NO_PORT}{_WORD}",
    "curl": rf"""{_GAP}(?:(?:-[A-Za-z]{{0,6}}[uU][\s"',]{{0,6}}|--(?:proxy-)?user[\s"',=]{{1,6}})["']?"""
    rf"""[^\s:"',\x00]{{0,100}}:(?!//)|-[A-Za-z]{{0,6}}b[\s"',]{{0,6}}["']?(?=[^\s=;,:"']{{1,64}}=)){_WORD}""",
    "jdbc:oracle:": r"[a-z0-9]{1,8}:[\w$#]{1,40}/(?P<secret>[^\s@\"'/\x00]{1,64})@",
    "convertto-securestring": rf"{_GAP}(?:-[Ss]tring{_GAP})?(?![$-]){_WORD}",
    "winrm": rf"{_GAP}-p{_GAP}{_WORD}",
    "http ": rf"""(?:-a|--auth)[\s"',=]{{1,6}}["']?[^\s:"',/\x00]{{1,100}}:(?!//){_WORD}""",
    "redis-cli": rf"{_GAP}-a{_GAP}{_WORD}",
    " login": rf"{_GAP}-p[\s\"',=]{{1,6}}{_NO_PORT}{_WORD}",
    "ldap": rf"{_GAP}-w[\s\"',]{{0,6}}(?!-){_WORD}",
    "sqlcmd": rf"{_GAP}-P[\s\"',]{{0,6}}{_WORD}",
    "ipmitool": rf"{_GAP}-P[\s\"',]{{0,6}}{_WORD}",
    "zip": rf"{_GAP}-P[\s\"',]{{0,6}}{_WORD}",
    "7z": rf"{_GAP}-p{_GLUED}{_WORD}",
    "plink": rf"{_GAP}-pw{_GAP}{_WORD}",
    "pscp": rf"{_GAP}-pw{_GAP}{_WORD}",
    "smb": rf"{_GAP}(?:-U|--user)[\s\"',=]{{0,6}}[^\s%\"',\x00]{{1,64}}%{_WORD}",
    "lftp": rf"{_GAP}-u[\s\"']{{0,6}}[^\s,\"'\x00]{{1,64}},{_WORD}",
    "sqlplus": r"""[\s"'][\w$#]{1,40}/(?P<secret>[^\s@"'/\x00]{1,64})@""",
    "freerdp": rf"{_GAP}/p:{_WORD}",
    "htpasswd": r"-[A-Za-z]*b[A-Za-z]*\s{1,4}\S{1,200}\s{1,4}\S{1,100}\s{1,4}(?P<secret>[^\s\x00]{1,200})",
}
_COMMAND: Final = {name: re.compile(rf"[^\r\n\x00|;&]{{0,200}}?{rest}") for name, rest in _COMMANDS.items()}

# -- records of a line --------------------------------------------------------------------

_CRYPT: Final = re.compile(r"\$(?:1|2[abxy]|5|6|y|gy|apr1|argon2\w{0,2})\$[^\s:\"'\x00]{12,}")
_CRYPTS: Final = ("$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$apr1$", "$argon2")
_PGPASS: Final = re.compile(
    r"""(?:[0-9]{2,5}|\*):[\w*-]{1,64}:[\w*.@-]{1,64}:(?P<secret>[^\s:"'\x00]{1,200})(?=[\s"'\x00]|\Z)""",
)
_HOST: Final = re.compile(r"""(?:\A|(?<![^\s"'\x00]))[\w.*-]{1,80}\Z""")
_PORTS: Final = (":5432:", ":5433:", ":6432:", ":*:")


def find_all(text: str, literal: str) -> Iterator[int]:
    """Yield the positions of ``literal`` in ``text``, without overlaps."""
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + len(literal))


def is_basic(value: str) -> bool:
    """Return whether ``value`` is ``user:password`` in base64."""
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_" if "-" in value else None)
    except (binascii.Error, ValueError):
        return False


def spans(text: str, low: str) -> Iterator[Span]:
    """Yield the places of secrets in ``text``; ``low`` is the same text in lower case, of the same length."""
    yield from _tokens(text)
    yield from _headers(text, low)
    yield from _urls(text)
    yield from _commands(text, low)
    yield from _records(text)


def _tokens(text: str) -> Iterator[Span]:
    # One byte a character, so that positions agree; anything beyond Latin-1 becomes "?", which ends a run.
    folded = text.encode("latin-1", "replace").translate(_FOLD)
    at = folded.find(_RUN)
    while at >= 0:
        end = folded.find(b" ", at)
        end = len(folded) if end < 0 else end
        at = yield from _in_run(text, at, end)
        at = folded.find(_RUN, at)
    if "PRIVATE KEY" in text:
        done = 0
        for at in find_all(text, "-----BEGIN "):
            if at >= done and (match := _PEM.match(text, at)):
                yield match.span()
                done = match.end()
    for at in find_all(text, "Q~"):
        if at >= 4 and (match := _AZURE.match(text, at - 4)):
            yield match.span()


def _in_run(text: str, start: int, end: int) -> Generator[Span, None, int]:
    """Yield the tokens in one run of token characters, and return the position to continue from."""
    dotted = _DOTTED.search(text, max(0, start - 12), start)
    if dotted and (match := _DOTTED_REST.match(text, start)):
        yield dotted.start(), match.end()
        return max(end, match.end())
    # In quoted JSON the letter of an escape (\n) is adjacent to the token.
    starts = (start, start + 1) if start and text[start - 1] == "\\" else (start,)
    for at in starts:
        if match := _at(text, at, end):
            yield match.span()
            return max(end, match.end())
    at = start
    if text.find("_", at, end) < 0 and text.find("-", at, end) < 0:
        return end
    while inside := _INSIDE.search(text, at, end):
        at = inside.end()
        if match := _at(text, at, end):
            yield match.span()
            at = match.end()
    return max(end, at)


def _at(text: str, at: int, end: int) -> re.Match[str] | None:
    if text.startswith("eyJ", at):
        return _JWT.match(text, at) if text.startswith(".", end) else None
    return _TOKEN.match(text, at)


def _headers(text: str, low: str) -> Iterator[Span]:
    for literal, pattern in (("bearer", _BEARER), ("authorization", _AUTHORIZATION), ("cookie", _COOKIE)):
        done = 0
        for at in find_all(low, literal):
            if at >= done and (match := pattern.match(text, at)):
                group = "secret" if match["secret"] is not None else "bare"
                yield match.span(group)
                done = match.end()
    for at in find_all(low, "basic"):
        if (match := _BASIC.match(text, at)) and is_basic(match["secret"]):
            yield match.span("secret")
    for at in find_all(low, "auth"):
        match = _DOCKER.match(text, at + 4)
        if match is not None and not is_basic(match["secret"]):
            match = None
        if match := match or _PAIR.match(text, at + 4):
            yield match.span("secret")


def _urls(text: str) -> Iterator[Span]:
    for at in find_all(text, "://"):
        if match := _URL.match(text, at):
            if match["secret"] is None:
                yield match.span("user")
            elif _USER.match(text, at + 3):  # a token in the place of the user
                yield at + 3, match.end("secret")
            else:
                yield match.span("secret")
    for literal, pattern in _WEBHOOK.items():
        done = 0
        for at in find_all(text, literal):
            if at >= done and (match := pattern.match(text, at + len(literal))):
                yield match.span("secret")
                done = match.end()
    for literal in ("@tcp(", "@unix("):
        for at in find_all(text, literal):
            if match := _GO_DSN.search(text, max(0, at - 200), at + 1):
                yield match.span("secret")


def _commands(text: str, low: str) -> Iterator[Span]:
    for name, pattern in _COMMAND.items():
        done = 0
        for at in find_all(low, name):
            if at >= done and (match := pattern.match(text, at + len(name))):
                yield match.span("secret")
                done = match.end()


def _records(text: str) -> Iterator[Span]:
    for literal in _CRYPTS:
        done = 0
        for at in find_all(text, literal):
            if at >= done and (match := _CRYPT.match(text, at)):
                yield match.span()
                done = match.end()
    for literal in _PORTS:
        for at in find_all(text, literal):
            if (match := _PGPASS.match(text, at + 1)) and _HOST.search(text, max(0, at - 80), at):
                yield match.span("secret")
