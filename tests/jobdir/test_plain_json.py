"""JSON in a process that has imported no ``json``: the keeper, and a command that reads one record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import supervisor

PACKAGE = Path(supervisor.__file__).parent
IN_A_KEEPER = f"sys.path.insert(0, {str(PACKAGE / 'keeper')!r}); import entry; entry.prepare({str(PACKAGE)!r})"
IN_A_COMMAND = f"sys.path.insert(0, {str(PACKAGE.parent)!r})"
PROGRAM = """
from supervisor.jobdir import plain_json
assert plain_json.loads(' {"a": [1, "x"]} ') == {"a": [1, "x"]}
for text in ("", "{", "nope", '{"a":}', "[1", '"', '"\\x01"', "1 2", b"{"):
    try:
        plain_json.loads(text)
    except ValueError:
        continue
    raise AssertionError(text)
from supervisor.jobdir import records
cause = {"group": "g", chr(233): [1, 0.5, chr(10), None, True, [], {}]}
assert plain_json.loads(records.encode({"cause": cause})) == {"v": 1, "cause": cause}
try:
    records.encode({"cause": {"group": object()}})
except TypeError:
    pass
else:
    raise AssertionError
print(sys.modules.get("json", plain_json) is plain_json)
"""


@pytest.mark.parametrize(("where", "flags"), [(IN_A_KEEPER, ["-I", "-S"]), (IN_A_COMMAND, ["-I"])])
def test_what_is_no_json_is_a_value_error(where: str, flags: list[str]) -> None:
    program = f"import sys\n{where}\n{PROGRAM}"
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if where == IN_A_KEEPER:
        assert done.stdout == "True\n"  # a later import may find no Python any more
