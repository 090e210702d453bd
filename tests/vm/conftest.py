"""The users of the guest, and the ways in which their programs come to run."""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

_PATH = "/opt/venv/bin:/usr/bin:/bin"


@attrs.frozen
class User:
    """A user of the guest, with a state root for one test."""

    name: str
    state_dir: str

    @property
    def settings(self) -> tuple[str, ...]:
        """The environment of its commands."""
        return f"SUPERVISOR_STATE_DIR={self.state_dir}", f"PATH={_PATH}"

    def in_service(self, *argv: str, **properties: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service of the user manager; with Delegate=yes unless ``properties`` say otherwise."""
        given = [f"{name}={value}" for name, value in properties.items()]
        line = ["as-user", self.name, *given, "--", "env", *self.settings, *argv]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def in_session(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a login session of its own, over SSH."""
        return subprocess.run(self.session_argv(*argv), capture_output=True, text=True, check=False)

    def session_argv(self, *argv: str) -> list[str]:
        """Return the words that run a command in a login session."""
        return ["ssh", "-q", f"{self.name}@localhost", shlex.join(["env", *self.settings, *argv])]

    def answer(self, *argv: str) -> dict[str, Any]:
        """Return what ``supervisor ... --json`` prints; it runs outside of sessions and of the user manager."""
        line = ["setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups"]
        line += ["env", "--ignore-environment", *self.settings, "supervisor", *argv, "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd="/")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _user(request: pytest.FixtureRequest, name: str) -> Iterator[User]:
    if not request.config.getoption("--vm"):
        pytest.skip("needs the guest: run it by `nox -s vm`")
    user = User(name, f"/home/{name}/{uuid.uuid4().hex}")
    yield user
    user.answer("cancel", "--all")


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """A user whose manager runs at all times (lingering)."""
    yield from _user(request, "user")


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[User]:
    """A user whose manager ends with the last session."""
    yield from _user(request, "guest")
