"""The runner of git commands."""

from __future__ import annotations

import shutil
import tempfile

import pytest

from supervisor.system.git import Git, GitFailed, plain_environment

SLOW = ("-c", "alias.slow=!sleep 0.3; echo said", "slow")
FAILS = ("-c", "alias.fails=!sleep 0.3; exit 3", "fails")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.mark.parametrize("most", [0, 3])
def test_a_command_that_writes_to_a_file_is_not_cut(most: int) -> None:
    with tempfile.TemporaryFile(buffering=0) as output:
        assert Git().run(plain_environment(), *SLOW, output=output, most=most) == b""
        output.seek(0)
        assert output.read() == b"said\n"


def test_a_command_that_writes_to_a_file_and_fails_is_a_failure() -> None:
    with tempfile.TemporaryFile(buffering=0) as output, pytest.raises(GitFailed, match="fails failed: 3"):
        Git().run(plain_environment(), *FAILS, output=output, most=0)
