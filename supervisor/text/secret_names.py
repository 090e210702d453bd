"""Finding secrets by their names: the values that are assigned to the name of a secret, and the exceptions.

An assignment is a name with one of a few words in it, a separator, and a value: in a shell, a query string, JSON (also
quoted within JSON), YAML, TOML, INI, XML, a table of comma-separated values, a header, an option. Code, prose and the
messages of tools look similar, so name, separator and value decide together. The rule of linearity is that of
``secret_tokens``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from supervisor.text.secret_tokens import Span, find_all

__all__ = ["MASK", "names_a_secret", "spans"]

MASK: Final = "[redacted]"

_STRONG: Final = frozenset({"passw", "passphrase", "passcode", "secret", "pwd", "identified by"})
_MEDIUM: Final = frozenset({"pass", "pw"})  # of a strong kind, but a word like any other as well
_WEAK: Final = ("token", "key", "credential", "signature", "_auth", "creds", "sig", "sessid", "psk", "-auth")
_WORDS: Final = (*sorted(_STRONG), *sorted(_MEDIUM), *_WEAK)
_BEFORE: Final = {
    # "key" alone is an ordinary word; with one of these before it, it names a secret.
    "key": re.compile(
        r"(?:api|private|access|account|signing|encryption|master|auth|license|service|subscription|functions?|shared|storage"
        r"|client|deploy|app|application|consumer|webhook|ssh|root|admin|aes|hmac|jwt|session|write|integration|ingest|routing"
        r"|server|security|rest|developer|partner|merchant|crypto|decryption|cookie)[_ .-]?\Z|[?&]\Z"
    ),
    "pwd": re.compile(r"[a-z0-9][_-]\Z|[;?&]\s?\Z"),  # alone it is a directory
    "pass": re.compile(r"(?<![a-z])\Z|(?:db|user|smtp|mail|ftp|ssh|root|admin|key|store|http|proxy)\Z"),
    "pw": re.compile(r"(?<![a-z0-9])\Z|(?:db|user|root|admin)\Z"),
    "sig": re.compile(r"[?&;]\Z"),
    "-auth": re.compile(r"(?:basic|http|proxy|user)\Z"),
    "psk": re.compile(r"(?<![a-z])\Z"),
}
_QUOTE: Final = r"""\\{0,7}["'`]?"""
_SEPARATOR: Final = re.compile(_QUOTE + r"""\]?\s{0,8}(?::=|=>|[:=])\s{0,8}""")
_REST_OF_NAME: Final = re.compile(r"[\w.-]{0,40}+")
_SAME_WORD: Final = re.compile(r"[a-z]{0,40}+")
# How a word may go on: "tokens" and "passwords" do, "tokenizer" and "secretary" are other words.
_INFLECTED: Final = re.compile(
    r"(?:ords?|d|s|phrases?|codes?)?(?:access|auth|api|secret|client|user)?(?:keys?|tokens?|secrets?|value|string|data|hash)?"
)
# Endings of names that describe a secret: ``token_type`` is not a secret.
_LAST_PART: Final = re.compile(r"(?:(?<=[a-z0-9])[A-Z][a-z]*|(?<![A-Za-z])(?:[A-Z]+|[A-Z]?[a-z]+)s?)\Z")
_ABOUT: Final = re.compile(
    r"types?|ur[li]s?|endpoint|names?|ids?|counts?|limits?|files?|filename|path|dir|refs?|expir\w*|ttl|lifetime|len|length|size|policy"
    r"|fields?|format|usage|budget|hint|prompt|label|placeholder|strength|rules|required|enabled|version|algorithm|alg|issuer|audience"
    r"|scopes?|status|state|kind|class|store|manager|provider|helper|service|handler|ring|index|rotation|min|max|left|used|reset|regex"
    r"|pattern|chars|header|prefix|suffix|source|attempts?|changed|updated|at|valid\w*|arn|env|var|mount|box|input|column|per|rate"
    r"|window|position|offset|authentication|checker|generator|visible|mode|review|quality",
    re.IGNORECASE,
)
_FILE: Final = re.compile(
    r"\S*\.(?:pyi?|[mc]?[jt]sx?|go|rs|rb|java|kts?|cc?|cpp|cxx|hh?|hpp|cs|php|swift|scala|sh|bash|zsh|sql|md|rst|txt|json|ya?ml|toml"
    r"|ini|cfg|conf|xml|html?|s?css|vue|svelte|lua|pl|pm|exs?|erl|ml|log|lock|proto|tf|gradle|ipynb|feature|spec|test)",
    re.IGNORECASE,
)
_PYTEST: Final = re.compile(r"::\w[^\s\[]{0,100}\[[^\s\]]{0,100}\Z")

_QUOTED: Final = re.compile(
    r"""(?P<quote>["'`])(?P<value>(?:\\.|(?!(?P=quote))[^\\\r\n\x00]){1,4096})(?P=quote)
      | (?P<escaped>\\{1,7}["'`])(?P<inner>[^\r\n\x00]{1,4096}?)(?P=escaped)""",
    re.VERBOSE,
)
_BARE: Final = r"""(?:[^\s"'`,;&<>\\\x00]|[,;&](?!\s|\Z|[\w.-]{1,40}=)|\\(?![nrt"'`]))"""
_BEGIN: Final = re.compile(_BARE + "{3,200}+")
_GO_ON: Final = re.compile(_BARE + "*+")
_BLOCK: Final = re.compile(r"[|>][+-]?[0-9]?[ \t]*\r?\n(?P<indent>[ \t]+)\S")
_LIST: Final = re.compile(r"""[\[({]\s{0,8}(?=["'])(?P<value>[^\])}\x00]{1,2048})[\])}]""")
_MARKUP: Final = re.compile(
    r"""(?:["']\s{0,4}|(?P<attributes>\s[^<>\x00]{1,100}))?>\s{0,40}(?:<!\[CDATA\[)?(?P<value>[^<>\x00]{1,1000}?)\s{0,40}(?:\]\]>)?</
      | ["']\s{1,8}(?:value|content|text)\s{0,4}=\s{0,4}["'](?P<attribute>[^"'<>\x00]{1,1000})["']
      | </key>\s{0,40}<string>(?P<plist>[^<>\x00]{1,1000})</""",
    re.VERBOSE | re.IGNORECASE,
)
_NEXT_WORD: Final = re.compile(r"""\\{0,7}["'],\s{1,40}(?=\\{0,7}["'](?!-))""")  # of a list in JSON or Python
_BLANK: Final = re.compile(r"[ \t]{1,4}(?:\\\r?\n[ \t]{0,40})?(?:=[ \t])?(?!-)")
# The text before a name whose value follows after a blank: an option, a declaration, a line of .netrc.
_INTRODUCED: Final = re.compile(
    r"(?<![\w-])--?[\w-]{0,24}\Z|(?:\A|[\s\x00])(?:ENV|ARG|setenv|set\s+-\w+|config:set)\s+[\w-]{0,24}\Z|\blogin\s{1,8}\S{1,80}\s{1,40}\Z",
)
# In a sentence: a value that looks like a secret, or that is quoted and has a digit.
_SAID: Final = re.compile(
    r"""[ \t](?:(?:is|was|for[ \t](?:user[ \t])?\S{1,100}?)[ \t:]{1,3})?(?:
        (?P<q>["'`]|)(?P<value>(?=[^\s/]{0,80}?[0-9])(?=[^\s/]{0,80}?[A-Z])(?=[^\s/]{0,80}?[a-z])[A-Za-z0-9+_=-]{20,1000})(?P=q)(?![\w/.:(]))""",
    re.VERBOSE,
)
_SAID_STRONG: Final = re.compile(
    r"""[ \t](?:(?:is|was|for[ \t](?:user[ \t])?\S{1,100}:)[ \t]
        (?=[^\s"']{0,80}[0-9])(?=[^\s"']{0,80}[A-Za-z])(?P<bare>[^\s"'\x00]{6,200})
      |(?:is[ \t]|was[ \t])?(?P<q>["'])(?=[^\s"']{0,80}[0-9])(?P<value>[^\s"'\x00]{5,200})(?P=q))""",
    re.VERBOSE,
)
_COUNT: Final = re.compile(r"[~<>^=v]{0,2}[0-9][0-9,._/]*[kKmM%s]?[).:;\]}]*")
_WHERE: Final = re.compile(r"[0-9]{1,7}(?::[0-9]{1,5})?(?:[:,)\]]|\Z)")
_WORD: Final = re.compile(r"[A-Za-z]{1,19}[.!?):}\]]*|[A-Za-z]{1,19}[-/'][A-Za-z'-]{1,19}[.!?):}\]]*")
# Placeholders of a secret, quoted or not.
_PLACEHOLDER: Final = re.compile(
    r"""(?:(?i:str|string|bytes|text|int|integer|number|bool|boolean|none|null|nil|true|false|any|object|required|optional|undefined
        |unknown|missing|redacted|secretstr|buffer|bytea|varchar|void|self|this|yes|no|on|off|n/a|await|new|lambda|function|async|bearer
        |basic|inherit|oauth2?|password|jwt|same-origin|include|omit|your[-_ ]\S*|enter[-_ ]\S*
        |placeholder\S*|todo|tbd|hidden|masked|filtered)
        [\])}.:?|,;!]*)\Z
      | \$\{ | \$[A-Za-z_]\w*\W{0,3}\Z | \$\( | %\w+%?\Z | \{\{? | \*{3,} | \.{3,}
      | \[redacted\] | x{4,} | [<\[(]?(?i:redacted)
      | \(\w+\)\Z | \[[a-z]+\]\Z | ![A-Za-z]+\Z | [)\],;}=|] | (?:process\.env|os\.environ|secrets|vars|env)[.\[] """,
    re.VERBOSE,
)
# Unquoted values in code.
_CODE: Final = re.compile(
    r"""[A-Za-z_][\w.]*(?:\(|\[|\{|->|::|<) | ::? | / | \+ | &[a-z]\w*\W*\Z | \*?[a-z]+\*\Z
      | (?:self|this|args?|config|cfg|settings|options|opts|params|request|req|ctx|context|props|state|user|data|vars?
        |local|module|event|github|inputs|steps|[Vv]alues|app|form|body|payload|response|resp|client|session|cls|model|result
        |kwargs|os|env|creds)\.[A-Za-z_]
      | (?:[A-Z][a-z]+){2,}\W{0,3}\Z                                    # a type
      | (?:[A-Z]{2,6}[-_])?(?:AES|RSA|SHA|HMAC|HS|RS|ES|PS|Ed|ED)[-_ ]?[0-9]{2,5}\b
      | (?i:(?:[a-z]+[._])*(?:password|passwd|passphrase|secret|token|key|credentials?|creds|pwd|pw|pass))
        [),;:\]}]*\Z                                                     # itself, handed on
    """,
    re.VERBOSE,
)
_ITS_NAME: Final = re.compile(r"[a-z_]+(?:\.[a-z_]+)*[),;:\]}]*\Z")
_PROSE: Final = re.compile(
    r"\b(?:is|are|was|were|be|been|must|should|may|can|cannot|could|not|no|the|a|an|at|in|of|for|from|to|by|as|too|your|please|enter|use"
    r"|incorrect|invalid|wrong|expired|mismatch|failed|empty|ok|set|unset|weak|strong|changed|reset|updated|correct|rejected|accepted"
    r"|disabled|enabled|denied|blank|see|user|and|or|if|when|it|they|minimum|maximum|least|see|only|rotated|found|line|column|default)\b",
    re.IGNORECASE,
)
_RANDOM: Final = re.compile(r"(?=[^\s/]{0,80}[0-9])(?=[^\s/]{0,80}[a-z])(?=[^\s/]{0,80}[A-Z])[A-Za-z0-9+_=-]{20,}")
_SECRET_NAME: Final = re.compile(
    r"passw|passphrase|passcode|secret(?!ary)|credential|(?:^|[_-])pwd|(?:^|[_-])pass$|token$|_token|authorization|^cookie$|set-cookie|"
    r"(?:api|private|access|account|signing|encryption|master|auth|service|client)[_ -]?key(?!_?id)|key-data$",
)
_COLUMN: Final = re.compile(
    r"""["']?(?:[a-z_\ -]{0,20}?
          (?:password|passwd|passphrase|pass|secret|api[_\ -]?key|access[_\ -]?token|auth[_\ -]?token|pwd)
          (?:[_\ ]?(?:key|value))?
          |token|secret[_\ -]access[_\ -]key)["']?""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING: Final = re.compile(r"""["']?[A-Za-z_][\w.#/-]*(?: [\w.#/()-]+){0,3}["']?""")
_TRAILING: Final = re.compile(r"[A-Za-z_][\w.# /()-]{0,60}\Z")
_DELIMITERS: Final = (",", ";", "\t", "|")
_LONGEST_LINE: Final = 1000


def names_a_secret(key: str) -> bool:
    """Return whether the value of a JSON member with this key is masked whole."""
    return _SECRET_NAME.search(key.lower()) is not None and not _speaks_about(key)


def _speaks_about(name: str) -> bool:
    """Return whether a name describes a secret and does not name one: ``token_type``, ``passwordExpiresAt``."""
    last = _LAST_PART.search(name[-20:])
    return last is not None and _ABOUT.fullmatch(last[0]) is not None


def spans(text: str, low: str) -> Iterator[Span]:
    """Yield the places of named secrets in ``text``; ``low`` is the same text in lower case, of the same length."""
    for word in _WORDS:
        done = 0
        for at in find_all(low, word):
            if at >= done and (span := _value_of(text, low, at, word)):
                yield span
                done = span[1]
    yield from _columns(text, low)


def _value_of(text: str, low: str, at: int, word: str) -> Span | None:  # shape by shape
    """Return the place of the value of the name with ``word`` in it at ``at``, if it is a secret."""
    before = _BEFORE.get(word)
    if before is not None and not before.search(low, max(0, at - 14), at):
        return None
    after = at + len(word)
    if word == "pass" and low.startswith(("w", "phrase", "code"), after):
        return None  # another word's
    rest = _REST_OF_NAME.match(text, after)
    end = after if rest is None else rest.end()
    tail = text[after:end]
    if text[after - 1].islower() and (more := _SAME_WORD.match(text, after)) and not _INFLECTED.fullmatch(more[0]):
        return None
    about = bool(tail) and _speaks_about(tail)
    if separator := _SEPARATOR.match(text, end):
        if text.startswith(":", separator.start()) and _FILE.fullmatch(tail):
            return None
        start, how = separator.end(), separator[0]
    elif match := _MARKUP.match(text, end):
        group = next(name for name in ("value", "attribute", "plist") if match[name] is not None)
        value = match[group]
        label = match["attributes"] is not None and not any(map(str.isdigit, value))
        harmless = about or label or _is_harmless(value, word, "=", text[at:after], quoted=True)
        return None if harmless or MASK in value else match.span(group)
    elif _is_introduced(text, at) and (blank := _BLANK.match(text, end) or _NEXT_WORD.match(text, end)):
        start, how = blank.end(), " "
    elif match := (word in _STRONG and _SAID_STRONG.match(text, end)) or _SAID.match(text, end):
        group = "value" if match["value"] is not None else "bare"
        return None if about or MASK in match[group] or _CODE.match(match[group]) else match.span(group)
    else:
        return None
    # A value is read to its end only when it is masked: otherwise the next name in it would read it again.
    if text.find("::", max(0, at - 200), at) >= 0 and _PYTEST.search(text, max(0, at - 200), at):
        return None
    return _span_of_value(text, start, how, word, text[at:after], about=about)


def _is_introduced(text: str, at: int) -> bool:
    window = text[max(0, at - 100) : at]
    near = window[-30:]
    # Most text is prose: the cheap tests come first.
    if "-" not in near and "login" not in window and not any(word in near for word in ("ENV", "ARG", "set")):
        return False
    return _INTRODUCED.search(window) is not None


def _span_of_value(text: str, start: int, how: str, word: str, spelled: str, *, about: bool) -> Span | None:
    if quoted := _QUOTED.match(text, start):
        group = "value" if quoted["value"] is not None else "inner"
        value = quoted[group].strip()
        if not value or MASK in value or _is_harmless(value, word, how, spelled, quoted=True):
            return None
        at = text.index(value, quoted.start(group))
        return None if about and not _RANDOM.match(value) else (at, at + len(value))
    if about and not _RANDOM.match(text, start):
        return None
    if word in _STRONG and (listed := _LIST.match(text, start)):
        return None if MASK in listed["value"] else listed.span("value")
    if word in _STRONG | _MEDIUM | {"token", "key"} and (block := _BLOCK.match(text, start)):
        return _block(text, block)
    begin = _BEGIN.match(text, start)
    if begin is None or MASK in begin[0] or _is_harmless(begin[0], word, how, spelled, quoted=False):
        return None
    if len(begin[0]) < 4 or (text.startswith("<", begin.end()) and begin[0].isalpha()):  # a type with parameters
        return None
    go_on = _GO_ON.match(text, begin.end())
    return start, begin.end() if go_on is None else go_on.end()


def _block(text: str, block: re.Match[str]) -> Span:
    """Return the lines of a block of YAML: those with the indentation of the first."""
    start = end = block.end("indent")
    indent = block["indent"]
    while end < len(text):
        newline = text.find("\n", end)
        nul = text.find("\0", end, len(text) if newline < 0 else newline)
        if nul >= 0 or newline < 0:
            return start, nul if nul >= 0 else len(text)
        end = newline
        if not text.startswith(indent, newline + 1) or end - start > 65536:
            break
        end = newline + 1
    return start, end


def _is_harmless(value: str, word: str, how: str, spelled: str, *, quoted: bool) -> bool:
    """Return whether a value is no secret, whatever its name is; ``value`` is the beginning of a long one."""
    if _PLACEHOLDER.match(value) or (not quoted and _CODE.match(value)):
        return True
    if quoted and value[0] in "<[" and value[-1] in ">]" and len(value) < 30:
        return True  # a special token of a language model, or a place to fill in
    spaced = how[-1:].isspace()
    return (_is_prose if word not in _WEAK else _is_common)(value, word, spaced=spaced, spelled=spelled, quoted=quoted)


def _is_prose(value: str, word: str, *, spaced: bool, spelled: str, quoted: bool) -> bool:
    """Say whether what follows a strong name only speaks about it."""
    if (len(_PROSE.findall(value, 0, 200)) > 1) if quoted else (spaced and _PROSE.match(value)):
        return True
    if word in _MEDIUM:
        prose = spaced and not quoted and not spelled.isupper() and _WORD.fullmatch(value)
        return bool(prose or _COUNT.fullmatch(value))
    return ":" in value and _WHERE.match(value) is not None  # password:12:5


def _is_common(value: str, word: str, *, spaced: bool, spelled: str, quoted: bool) -> bool:
    """Say whether a weak name has its everyday meaning."""
    if _COUNT.fullmatch(value) or _WHERE.match(value):
        return True  # "tokens: 1,234", "token:12:5"
    if not any(map(str.isdigit, value[:200])):
        if (quoted or spaced) and (_WORD.fullmatch(value) or len(value) < 6 or " " in value):
            return True  # "the token: when it expires", token_type: "bearer"
        return not (quoted or spelled.isupper()) and _ITS_NAME.match(value) is not None  # handed on in code
    return value[0] == "(" or (quoted and " " in value.strip()) or (word == "sig" and len(value) < 16)


def _columns(text: str, low: str) -> Iterator[Span]:
    """Yield the fields of a table whose heading names a secret."""
    for word in ("pass", "secret", "token", "api_key", "apikey", "api key", "pwd"):
        done = 0
        for at in find_all(low, word):
            if at < done:
                continue
            begin, end = _line_begin(text, at), _line_end(text, at)
            done = end  # whatever it is, it is looked at once
            if begin < 0 or end < 0 or (found := _column_of(text[begin:end])) is None:
                continue
            delimiter, columns, count = found
            at_row = end + 1
            while at_row < len(text) and text[at_row - 1] == "\n":
                row_end = _line_end(text, at_row)
                fields = text[at_row : max(at_row, row_end)].split(delimiter)
                if row_end < 0 or len(fields) != count:
                    break
                position = at_row
                for number, field in enumerate(fields):
                    bare = field.strip(" \r\"'")
                    if len(bare) >= columns.get(number, _LONGEST_LINE) and set(bare) - set("-:") and bare != MASK:
                        inner = position + field.index(bare)
                        yield inner, inner + len(bare)
                    position += len(field) + 1
                at_row = row_end + 1
            done = max(done, at_row - 1)


def _line_begin(text: str, at: int) -> int:
    """Return where the line begins that ``at`` is in; -1 for a line that is too long for a heading."""
    newline = max(text.rfind("\n", max(0, at - _LONGEST_LINE), at), text.rfind("\0", max(0, at - _LONGEST_LINE), at))
    return newline + 1 if newline >= 0 or at <= _LONGEST_LINE else -1


def _line_end(text: str, at: int) -> int:
    ends = [each for each in (text.find(mark, at, at + _LONGEST_LINE) for mark in ("\n", "\0")) if each >= 0]
    return min(ends, default=len(text) if len(text) - at <= _LONGEST_LINE else -1)


def _column_of(heading: str) -> tuple[str, dict[int, int], int] | None:
    """Return the delimiter, the least length of a secret by column, and the number of columns of such a heading."""
    for delimiter in _DELIMITERS:
        fields = heading.rstrip("\r").split(delimiter)
        if len(fields) < 2 or len(fields) > 100:
            continue
        fields = [field.strip() if delimiter == "|" else field.rstrip() for field in fields]
        fields = [field.strip("\"' ") if field[:1] in {'"', "'"} else field for field in fields]
        begin = _TRAILING.search(fields[0][-70:])  # behind what a document has before its text
        fields[0] = begin[0] if begin else ""
        if not all(_HEADING.fullmatch(field) for field in fields if field):
            continue
        columns = {number: _least(field) for number, field in enumerate(fields) if _COLUMN.fullmatch(field)}
        if columns:
            return delimiter, columns, len(fields)
    return None


def _least(heading: str) -> int:
    """Return the least length of a masked field: tokens are long, and passwords have any length."""
    if re.search("passw|passphrase|pwd", heading, re.IGNORECASE):
        return 3
    return 6 if "pass" in heading.lower() else 12
