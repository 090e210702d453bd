"""Taking secrets and control characters out of what we compose ourselves.

Used for details, errors, log lines and normalised answers; never for the owner's own bytes
(``raw`` and ``json`` values, ``logs``, ``follow``, ``run``). Three shapes are masked: tokens
that are secrets by construction, credentials in URLs and headers, and values assigned to
names that say so. Ordinary prose passes unchanged.

Theory of operation. The text can be megabytes long and hostile, so no regular expression
ever searches it. Candidates are found by ``str.find`` on a few literals, and by looking for
runs of 16 token characters in a copy that has been folded to two symbols; a pattern is then
*matched* where a candidate stands. Every pattern either consumes what it looks at, stops at
the end of a run that no other candidate shares, or has an upper bound, so the whole is linear.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any, Final

import attrs

from supervisor.interpret.json_lines import is_list, is_object

__all__ = ["MASK", "MAX_DEPTH", "clean", "encodable", "excerpt", "redact", "redact_value", "tail"]

MASK: Final = "[redacted]"
MAX_DEPTH: Final = 64
"""How many levels of a JSON value are kept; what lies deeper is replaced by a note."""

_Span = tuple[int, int]

# -- tokens that are secrets by construction ----------------------------------------------

_RUN: Final = b"a" * 16
_FOLD: Final = bytes(97 if chr(i).isascii() and (chr(i).isalnum() or chr(i) in "_-") else 32 for i in range(256))
_TOKEN: Final = re.compile(
    r"""
      (?:sk|rk|pk)-(?=[a-z_-]{0,60}[0-9A-Z])[A-Za-z0-9_-]{16,}        # Anthropic, OpenAI and many others
    | (?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}             # Stripe
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | gl(?:pat|ptt|rt|dt|soat|cbt)-[A-Za-z0-9_-]{16,}
    | xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{12,}
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])
    | AIza[A-Za-z0-9_-]{30,} | GOCSPX-[A-Za-z0-9_-]{20,}
    | (?:npm|hf|dop_v1|doo_v1|dor_v1|dckr_pat|dckr_oat|ntn|gsk|lin_api|shpat|shpss|shppa|figd|r8)_[A-Za-z0-9_-]{20,}
    | (?:pypi|xai|pplx|tvly)-[A-Za-z0-9_-]{20,}
    | dapi[0-9a-f]{32}
    | AGE-SECRET-KEY-1[A-Z0-9]{20,}
    | eyJ[A-Za-z0-9_-]{8,1024}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?  # JSON web token
    """,
    re.VERBOSE,
)
# A token after a separator in the same run, as in TOKEN_ghp_... The set in front makes the search quick.
_INSIDE: Final = re.compile(r"[_-](?=sk-|sk_|rk|pk|gh|github|gl|xo|xapp|A|G|npm|hf|do|dckr|eyJ|pypi|xai|wh|gsk)")
# Tokens whose prefix ends in a dot or a colon: the run of 16 is what comes after it.
_DOTTED: Final = re.compile(r"(?:ya29|hv[sbr]|SG)\.\Z|(?<![0-9])[0-9]{8,10}:\Z")
_DOTTED_REST: Final = re.compile(r"[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]+)*")

_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[^\x00]*?(?:-----END [A-Z0-9 ]{0,40}-----|(?=\x00)|\Z)",
)

# -- credentials in URLs and headers ------------------------------------------------------

# A password may hold an @ itself: up to the last one before the path.
_URL: Final = re.compile(r"""://[^\s/:@"'<>\x00]{0,256}:(?P<secret>[^\s/"'<>\x00]+)@""")
_BEARER: Final = re.compile(
    r"bearer\s{1,4}(?P<secret>(?=[A-Za-z._~+/=-]{0,60}[0-9]|\S{20})[A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE
)
_QUOTE: Final = r"""\\{0,7}["'`]?"""
_SEPARATOR: Final = _QUOTE + r"""\]?\s{0,8}(?::=|=>|[:=])\s{0,8}"""
_AUTHORIZATION: Final = re.compile(
    r"authorization"
    + _SEPARATOR
    + _QUOTE
    + r"""(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256|hmac)\s{1,4}
      (?P<secret>[^\r\n"'`\\\x00]{4,}) | (?P<bare>(?=[^\s"'`]{0,60}[0-9])[^\s"'`\\\x00]{8,}))""",
    re.IGNORECASE | re.VERBOSE,
)
_COOKIE: Final = re.compile(
    r"cookie" + _SEPARATOR + _QUOTE + r"(?P<secret>(?=[^\s=;]{1,64}=)[^\r\n\"'`\\\x00]{4,})",
    re.IGNORECASE,
)

# -- values assigned to names that say so -------------------------------------------------

_VALUE: Final = r"""
    (?P<quote>["'`])(?P<quoted>(?:\\.|(?!(?P=quote))[^\\\r\n\x00]){1,4096})(?P=quote)
  | (?P<escaped>\\{1,7}["'`])(?P<inner>[^\r\n\x00]{1,4096}?)(?P=escaped)
  | (?P<bare>(?:[^\s"'`,;&<>\\\x00]|[,;&](?!\s|\Z|[\w.-]{1,40}=)|\\(?![nrt"'`])){4,})
"""
_ASSIGNED: Final = re.compile(rf"[\w.-]{{0,40}}(?P<separator>{_SEPARATOR})(?:{_VALUE})", re.VERBOSE)
_FLAGGED: Final = re.compile(rf"[\w-]{{0,40}}(?P<separator>\s{{1,4}})(?!-)(?:{_VALUE})", re.VERBOSE)
_FLAG: Final = re.compile(r"(?<![\w-])--[\w-]{0,24}\Z")
_STRONG: Final = ("passw", "passphrase", "passcode", "secret", "pwd")
_WEAK: Final = ("token", "key", "credential", "signature", "_auth")
# "key" alone is a word like any other; these make it a secret. "pwd" alone is a directory.
_KEY_BEFORE: Final = re.compile(
    r"(?:api|private|access|account|signing|encryption|master|auth|license|service)[_ -]?\Z"
)
_PWD_BEFORE: Final = re.compile(r"[a-z0-9][_-]\Z|[;?&]\Z")
_HARMLESS: Final = re.compile(
    r"""(?i:str|string|bytes|text|int|integer|number|bool|boolean|none|null|nil|true|false|any|object|required|optional|
        undefined|unknown|missing|redacted|secretstr)[\])}.:?|]*
      | \$\{[^}]*\}.* | \$[A-Z_][A-Z0-9_]* | \$\( .* | %\w+%? | \{\{?.*
      | \*{3,} | \.{3,} | \[redacted\].* | x{4,}
      | [A-Za-z_][\w.]*[(\[].*
      | (?:os\.environ|process\.env|env)\b.*
    """,
    re.VERBOSE | re.DOTALL,
)
_COUNT: Final = re.compile(r"[~<>]?[0-9][0-9,._/]*[kKmM%]?[).]*")
_WORD: Final = re.compile(r"[A-Za-z]{1,19}[.!?):]*|[A-Za-z]{1,19}[-/'][A-Za-z'-]{1,19}[.!?):]*")
_SECRET_NAME: Final = re.compile(
    r"passw|passphrase|passcode|secret|credential|(?:^|[_-])pwd|token$|_token|authorization|^cookie$|set-cookie|"
    r"(?:api|private|access|account|signing|encryption|master|auth|service)[_ -]?key",
)

# -- control characters -------------------------------------------------------------------

# C0 and C1 controls but tab and newline, half surrogates, and the characters that reorder or hide text.
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]",
)
_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])",
)

_TAIL_CHARACTERS: Final = 400


def redact(text: str) -> str:
    """Return ``text`` with secrets replaced by ``[redacted]``, in time linear in its length."""
    spans = sorted((*_token_spans(text), *_named_spans(text)))
    if not spans:
        return text
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        if start >= done:
            pieces += (text[done:start], MASK)
        done = max(done, end)
    pieces.append(text[done:])
    return "".join(pieces)


def _find_all(text: str, literal: str) -> Iterator[int]:
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + len(literal))


def _token_spans(text: str) -> Iterator[_Span]:
    # One byte a character, so that positions agree; anything beyond Latin-1 becomes "?", which ends a run.
    folded = text.encode("latin-1", "replace").translate(_FOLD)
    at = folded.find(_RUN)
    while at >= 0:
        end = folded.find(b" ", at)
        end = len(folded) if end < 0 else end
        at = yield from _spans_of_run(text, at, end)
        at = folded.find(_RUN, at)
    if "PRIVATE KEY" in text:
        done = 0
        for at in _find_all(text, "-----BEGIN "):
            if at >= done and (match := _KEY_BLOCK.match(text, at)):
                yield match.span()
                done = match.end()


def _spans_of_run(text: str, start: int, end: int) -> Generator[_Span, None, int]:
    """Yield the tokens in one run of token characters, and return where to go on."""
    dotted = _DOTTED.search(text, max(0, start - 12), start)
    if dotted and (match := _DOTTED_REST.match(text, start)):
        yield dotted.start(), match.end()
        return max(end, match.end())
    # In text that is itself quoted JSON the letter of an escape (\n) sticks to the token.
    starts = (start, start + 1) if start and text[start - 1] == "\\" else (start,)
    for at in starts:
        if match := _TOKEN.match(text, at):
            yield match.span()
            return max(end, match.end())
    at = start
    if text.find("_", at, end) < 0 and text.find("-", at, end) < 0:
        return end
    while inside := _INSIDE.search(text, at, end):
        at = inside.end()
        if match := _TOKEN.match(text, at):
            yield match.span()
            at = match.end()
    return max(end, at)


def _named_spans(text: str) -> Iterator[_Span]:
    low = text.lower()
    if len(low) != len(text):  # one letter of Unicode (U+0130) grows; positions have to agree
        low = "".join(letter if len(letter) == 1 else "?" for letter in map(str.lower, text))
    for at in _find_all(text, "://"):
        if match := _URL.match(text, at):
            yield match.span("secret")
    for literal, pattern in (("bearer", _BEARER), ("authorization", _AUTHORIZATION), ("cookie", _COOKIE)):
        done = 0
        for at in _find_all(low, literal):
            if at >= done and (match := pattern.match(text, at)):
                group = "secret" if match["secret"] is not None else "bare"
                yield match.span(group)
                done = match.end()
    for word in (*_STRONG, *_WEAK):
        done = 0
        for at in _find_all(low, word):
            if at >= done and (span := _assigned_span(text, low, at, word)):
                yield span
                done = span[1]


def _assigned_span(text: str, low: str, at: int, word: str) -> _Span | None:
    """Return where the value is that is assigned to the name with ``word`` in it at ``at``, if one is."""
    before = {"key": _KEY_BEFORE, "pwd": _PWD_BEFORE}.get(word)
    if before is not None and not before.search(low, max(0, at - 12), at):
        return None
    after = at + len(word)
    match = _ASSIGNED.match(text, after)
    if match is None:
        # `--token VALUE`; a look behind is only worth it where a blank follows the name.
        match = _FLAGGED.match(text, after)
        if match is None or text.find("--", max(0, at - 28), at) < 0 or not _FLAG.search(text, max(0, at - 28), at):
            return None
    elif (bare := match["bare"]) is not None:
        if _HARMLESS.fullmatch(bare):
            return None
        if word in _WEAK and (_COUNT.fullmatch(bare) or (match["separator"][-1].isspace() and _WORD.fullmatch(bare))):
            return None  # "tokens: 1,234", "the token: when it expires"
    for group in ("bare", "quoted", "inner"):
        if match[group] is not None:
            return None if MASK in match[group] else match.span(group)
    return None  # pragma: no cover - one of the three always takes part


def redact_value(value: Any, *, depth: int = MAX_DEPTH) -> Any:
    """Return a copy of a JSON value that is safe to hand on: redacted, encodable, finite and not too deep.

    Every string is redacted, keys too; the value of a key that names a secret is masked whole.
    Numbers that JSON cannot carry become ``None``, integers past 64 bits floats.
    """
    strings: list[str] = []
    skeleton = _take_strings(value, strings, depth)
    joined = "\0".join(strings)
    redacted = redact(joined).split("\0")
    # No pattern crosses a NUL, so the pieces come back one for one.
    if len(redacted) != len(strings):  # pragma: no cover - would be a defect in a pattern
        redacted = [redact(text) for text in strings]
    return _put_strings(skeleton, redacted)


@attrs.frozen(slots=True, eq=False)
class _Slot:
    """The place of a string that is being redacted together with all the others."""

    index: int


@attrs.frozen(slots=True, eq=False)
class _Object:
    """A JSON object whose keys and values are still places."""

    members: list[tuple[_Slot, Any]]


@attrs.frozen(slots=True, eq=False)
class _Array:
    """A JSON array whose entries are still places."""

    entries: list[Any]


def encodable(text: str) -> str:
    """Return ``text`` without half surrogates, which no encoder takes, and without NUL."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _slot(text: str, strings: list[str]) -> _Slot:
    strings.append(encodable(text))
    return _Slot(len(strings) - 1)


def _take_strings(value: Any, strings: list[str], depth: int) -> Any:
    if isinstance(value, str):
        return _slot(value, strings)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else _finite(value)
    if isinstance(value, float):
        return _finite(value)
    if depth <= 0:
        return "[nested too deeply]"
    if is_object(value):
        members: list[tuple[_Slot, Any]] = []
        for key, inner in value.items():
            named = isinstance(inner, str) and inner and _SECRET_NAME.search(key.lower())
            members.append((_slot(key, strings), MASK if named else _take_strings(inner, strings, depth - 1)))
        return _Object(members)
    if is_list(value):
        return _Array([_take_strings(inner, strings, depth - 1) for inner in value])
    return None


def _put_strings(skeleton: Any, strings: list[str]) -> Any:
    if isinstance(skeleton, _Slot):
        return strings[skeleton.index]
    if isinstance(skeleton, _Object):
        return {strings[key.index]: _put_strings(value, strings) for key, value in skeleton.members}
    if isinstance(skeleton, _Array):
        return [_put_strings(value, strings) for value in skeleton.entries]
    return skeleton


def _finite(number: float) -> float | None:
    try:
        as_float = float(number)
    except OverflowError:
        return None
    return as_float if as_float - as_float == 0 else None


def clean(text: str) -> str:
    """Return ``text`` without terminal escapes, control and direction characters; tab and newline stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPE.sub("", text))


def excerpt(text: str, limit: int = _TAIL_CHARACTERS) -> str:
    """Return the beginning of ``text``, cleaned and redacted, ``limit`` characters at most.

    Only the beginning is looked at, however long the text is; it is cut between words
    before and after the redaction, so that no half of a secret stands at the edge.
    """
    window = text
    if len(text) > 8 * limit:
        window = _whole_words(text[: 8 * limit])
    safe = redact(clean(window)).strip()
    if len(safe) <= limit and len(window) == len(text):
        return safe
    return _whole_words(safe[:limit]) + " ..."


def _whole_words(text: str) -> str:
    """Drop the last word of ``text`` unless that would be most of it."""
    head, blank, _ = text.rpartition(" ")
    return head if blank and len(head) > len(text) // 2 else text


def tail(stderr: bytes, limit: int = _TAIL_CHARACTERS) -> str | None:
    """Return the last lines of ``stderr``, cleaned and redacted, ``limit`` characters at most.

    ``None`` when there is nothing in it. Redaction comes before the cut, so that a cut can
    never leave half a secret standing.
    """
    text = redact(clean(stderr.decode(errors="replace"))).strip()
    if not text:
        return None
    if len(text) <= limit:
        return text
    cut = text[-limit:]
    _, newline, whole_lines = cut.partition("\n")
    return "... " + (whole_lines if newline and whole_lines else cut)
