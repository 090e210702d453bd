"""Kinds: the sorts of jobs that a server's tools start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.mcp_server.config import templates
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.retry import Retry

__all__ = ["COMMON", "CONTROLS", "RESERVED", "Kind"]

BUILT_IN_PLACEHOLDERS: Final = ("python",)

COMMON: Final = (
    Parameter(name="workspace", min_length=1, max_length=4096, lists_bounds=False),
    Parameter(name="deadline_seconds", type="number", minimum=0, maximum=31_536_000, lists_bounds=False),
    Parameter(name="idempotency_key", min_length=1, max_length=150, lists_bounds=False),
    Parameter(name="wait_seconds", type="number", minimum=0, maximum=3600, lists_bounds=False),
    Parameter(name="labels", type="labels"),
)
"""The parameters of every tool that starts a job, besides its own; the instructions of the server explain them once."""

CONTROLS: Final = ("pause", "send", "rerun", "continue")
"""What a kind may allow its callers beyond start, read, wait and cancel: ``pause`` includes to resume."""

RESERVED: Final = frozenset(each.name for each in COMMON) | frozenset(BUILT_IN_PLACEHOLDERS)


@attrs.frozen(slots=True, kw_only=True)
class Kind:
    """One sort of job that callers may start.

    Attributes:
        name: the name of the tool.
        description: the description of the tool, for models.
        command: the templates of the command's words.
        stdin: the template of the job's input; ``None`` for no input.
        interpret: how its output is interpreted, see ``supervisor.interpret``.
        deadline_seconds: the default and the maximum; ``None`` for the default of the settings.
        env_pass: names, or patterns of names, of variables to pass from the server's environment.
        env_set: variables to set.
        workspaces: real paths of the directories in (or below) which it may run; ``None`` for
            the server's own directory and the host's roots.
        read_only: whether the file declares that it changes nothing but its own output.
        on_end: the command that gets the end of each job, see ``JobSpec``; ``None`` for none.
        webhook: the URL to which the end of each job is sent; ``None`` for none.
        worktree: with what the git worktree of each job begins, see ``JobSpec``; ``None`` for no worktree.
        engine: the name of its engine; ``None`` for this machine.
        engine_options: the options of that engine, see ``docs/slurm.md``.
        groups: the groups whose limits count for its jobs.
        priority: the priority of its jobs.
        start_within_seconds: how long its jobs may wait; ``None`` for any time.
        retry: whether and how its jobs are tried again; ``None`` for not.
        confirm: whether the user is asked before a job is started.
        control: what callers may do with its jobs, of ``CONTROLS``.
        parameters: the parameters that a caller gives.
    """

    name: str
    description: str
    command: tuple[str, ...]
    stdin: str | None = None
    interpret: str = "raw"
    deadline_seconds: float | None = None
    env_pass: tuple[str, ...] = ()
    env_set: Mapping[str, str] = attrs.field(factory=dict[str, str])
    workspaces: tuple[str, ...] | None = None
    read_only: bool = False
    worktree: str | None = None
    on_end: tuple[str, ...] | None = None
    webhook: str | None = None
    engine: str | None = None
    engine_options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    groups: tuple[str, ...] = ()
    priority: int = 0
    start_within_seconds: float | None = None
    retry: Retry | None = None
    confirm: bool = False
    control: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()

    def request(self, values: Mapping[str, Any], python: str) -> tuple[tuple[str, ...], bytes | None]:
        """Return the command and the stdin for these values of the parameters.

        Raises:
            InvalidArguments: a value does not fit its placeholder.
        """
        values = {**values, "python": python}
        words = (templates.expand_word(word, values) for word in self.command)
        argv = tuple(word for word in words if word is not None)
        if self.stdin is None:
            return argv, None
        return argv, templates.expand_text(self.stdin, values).encode(errors="replace")
